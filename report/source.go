package report

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"sendmail-wrapper/origin"
	"sendmail-wrapper/quota"
	"sendmail-wrapper/trace"
)

// Source is what one script, crontab line or site sent, as one user of one host:
// the same path is another file on another host, and a script that a user only
// says to be is not the other's who has it.
type Source struct {
	Name       string   `json:"name"`
	Host       string   `json:"host"`
	User       *string  `json:"user"`       // null: not known
	Messages   int64    `json:"messages"`   // let through, as recipients
	Recipients int64    `json:"recipients"` // of these
	Refused    int64    `json:"refused"`    // messages
	First      Time     `json:"first"`
	Last       Time     `json:"last"`
	Weakest    string   `json:"weakest_proof"` // of the name: kernel, system, claimed
	Strongest  string   `json:"strongest_proof"`
	Subjects   []string `json:"subjects"` // samples, newest first: of the last day, where they are kept
	To         []string `json:"to"`       // the same of recipients

	host quota.ID
	user *quota.ID
}

// SourceColumns are what Sources can rank by.
var SourceColumns = []string{"script", "crontab", "site"}

// maxSamples is how many subjects and recipients a source shows, and sampled among
// how many messages they are looked for.
const maxSamples, sampled = 3, 10

// Sources returns what sent most, by one of SourceColumns, at most limit of them.
// Messages whose script, crontab line or site is not known are not among them.
func Sources(ctx context.Context, pool *pgxpool.Pool, f Filter, by string, limit int) ([]Source, error) {
	if !slices.Contains(SourceColumns, by) {
		return nil, fmt.Errorf("cannot rank by %q", by)
	}
	list, err := days(ctx, pool, f)
	if err != nil {
		return nil, err
	}
	groups := map[[3]string]*Source{}
	for _, day := range list {
		sources, err := sourcesOfDay(ctx, pool, &day, by)
		if err != nil {
			return nil, err
		}
		for i := range sources {
			s := &sources[i]
			k := [3]string{s.Name, s.Host, orNull(s.User)}
			g := groups[k]
			if g == nil {
				groups[k] = s
				continue
			}
			g.add(s)
		}
	}
	top := first(groups, limit, func(a, b *Source) int {
		return cmp.Or(cmp.Compare(b.Recipients, a.Recipients), cmp.Compare(b.Refused, a.Refused), cmp.Compare(a.Name, b.Name),
			cmp.Compare(a.Host, b.Host), cmp.Compare(orNull(a.User), orNull(b.User)))
	})
	for _, day := range list {
		if err := sampleDay(ctx, pool, &day, by, top); err != nil {
			return nil, err
		}
	}
	return top, nil
}

// add sums up with another one of the same.
func (s *Source) add(o *Source) {
	s.Messages += o.Messages
	s.Recipients += o.Recipients
	s.Refused += o.Refused
	s.First = earliest(s.First, o.First)
	if !time.Time(o.Last).Before(time.Time(s.Last)) {
		s.Last, s.host, s.user = o.Last, o.host, o.user
	}
	if proofs[o.Weakest] < proofs[s.Weakest] {
		s.Weakest = o.Weakest
	}
	if proofs[o.Strongest] > proofs[s.Strongest] {
		s.Strongest = o.Strongest
	}
}

// proofs are those of origin by name.
var proofs = map[string]origin.Proof{
	origin.Claimed.String(): origin.Claimed, origin.System.String(): origin.System, origin.Kernel.String(): origin.Kernel,
}

func sourcesOfDay(ctx context.Context, pool *pgxpool.Pool, f *Filter, by string) ([]Source, error) {
	conditions, args := f.where()
	rows, err := pool.Query(ctx, `SELECT m.name, `+hostName+`, `+userName+`, m.host_id, m.user_id, m.messages, m.recipients, m.refused, m.first, m.last, m.weakest, m.strongest
  FROM (SELECT m.`+by+` AS name, m.host_id, m.user_id, count(*) FILTER (WHERE m.decision = 1) AS messages,
               coalesce(sum(m.recipients) FILTER (WHERE m.decision = 1), 0)::bigint AS recipients, count(*) FILTER (WHERE m.decision = 2) AS refused,
               min(m.at) AS first, max(m.at) AS last, coalesce(min(m.`+by+`_proof), 0) AS weakest, coalesce(max(m.`+by+`_proof), 0) AS strongest
          FROM messages m WHERE `+conditions+` AND m.`+by+` IS NOT NULL GROUP BY m.`+by+`, m.host_id, m.user_id) m`, args...)
	if err != nil {
		return nil, fmt.Errorf("read by %s: %w", by, err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (s Source, err error) {
		var first, last time.Time
		var weakest, strongest int16
		err = row.Scan(&s.Name, &s.Host, &s.User, &s.host, &s.user, &s.Messages, &s.Recipients, &s.Refused, &first, &last, &weakest, &strongest)
		s.First, s.Last = Time(first), Time(last)
		s.Weakest, s.Strongest = origin.Proof(weakest).String(), origin.Proof(strongest).String()
		s.Subjects, s.To = []string{}, []string{}
		return s, err
	})
	if err != nil {
		return nil, fmt.Errorf("read by %s: %w", by, err)
	}
	return list, nil
}

// sampleDay gives samples to those sources that this day is the last of. The day
// is read once for all of them, and the details of a few messages each by key.
func sampleDay(ctx context.Context, pool *pgxpool.Pool, day *Filter, by string, top []Source) error {
	var numbers []int
	var names []string
	var hosts, users []int64
	for i := range top {
		s := &top[i]
		if last := time.Time(s.Last); last.Before(day.Since) || !last.Before(day.Until) {
			continue
		}
		var user int64
		if s.user != nil {
			user = int64(*s.user)
		}
		numbers, names, hosts, users = append(numbers, i), append(names, s.Name), append(hosts, int64(s.host)), append(users, user)
	}
	if len(numbers) == 0 {
		return nil
	}
	conditions, args := day.where()
	n := len(args)
	rows, err := pool.Query(ctx, fmt.Sprintf(`SELECT k.number, d.subject, d.recipients
  FROM (SELECT k.number, m.id, m.at, row_number() OVER (PARTITION BY k.number ORDER BY m.at DESC, m.id DESC) AS place
          FROM messages m JOIN unnest($%d::integer[], $%d::text[], $%d::bigint[], $%d::bigint[]) k (number, name, host_id, user_id)
            ON m.%s = k.name AND m.host_id = k.host_id AND coalesce(m.user_id, 0) = k.user_id
         WHERE %s) k, LATERAL (SELECT * FROM details WHERE id = k.id AND at >= $1 AND at < $2 LIMIT 1) d
 WHERE k.place <= %d ORDER BY k.number, k.place`, n+1, n+2, n+3, n+4, by, conditions, sampled), append(args, numbers, names, hosts, users)...)
	if err != nil {
		return fmt.Errorf("read samples: %w", err)
	}
	var number int
	var subject *string
	var to []string
	_, err = pgx.ForEachRow(rows, []any{&number, &subject, &to}, func() error {
		s := &top[number]
		if subject != nil {
			s.Subjects = sample(s.Subjects, trace.DecodeSubject(*subject))
		}
		for _, address := range to {
			s.To = sample(s.To, address)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("read samples: %w", err)
	}
	return nil
}

// sample adds what is not there yet, as long as there is room.
func sample(list []string, one string) []string {
	if len(list) == maxSamples || slices.Contains(list, one) {
		return list
	}
	return append(list, one)
}
