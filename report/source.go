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
	Name string  `json:"name"`
	Host string  `json:"host"`
	User *string `json:"user"` // null: not known
	Counts
	Weakest   string   `json:"weakest_proof"` // of the name: kernel, system, claimed
	Strongest string   `json:"strongest_proof"`
	Subjects  []string `json:"subjects"` // samples, newest first: of the last hour in which it sent, where they are kept
	To        []string `json:"to"`       // the same of recipients

	host quota.ID
	user quota.ID // 0: not known
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
	groups := map[[3]string]*Source{}
	err := eachGroup(ctx, pool, f, byDay, 0, func(source, conditions string) string { return sourcesSQL(by, source, conditions) }, scanSource, func(s Source) {
		k := [3]string{s.Name, s.Host, orNull(s.User)}
		if g := groups[k]; g != nil {
			g.merge(&s)
			return
		}
		groups[k] = &s
	})
	if err != nil {
		return nil, fmt.Errorf("read by %s: %w", by, err)
	}
	top := first(groups, limit, func(a, b *Source) int {
		return cmp.Or(cmp.Compare(b.Recipients, a.Recipients), cmp.Compare(b.Refused, a.Refused), cmp.Compare(a.Name, b.Name),
			cmp.Compare(a.Host, b.Host), cmp.Compare(orNull(a.User), orNull(b.User)))
	})
	return top, sampleAll(ctx, pool, f, by, top)
}

// merge sums up with another one of the same.
func (s *Source) merge(o *Source) {
	if !time.Time(o.Last).Before(time.Time(s.Last)) {
		s.host, s.user = o.host, o.user
	}
	s.Counts.add(&o.Counts)
	if w := proofs[o.Weakest]; w != 0 && (w < proofs[s.Weakest] || proofs[s.Weakest] == 0) {
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

func sourcesSQL(by, source, conditions string) string {
	return `SELECT m.name, ` + hostName + `, ` + userName + `, m.host_id, m.user_id, m.weakest, m.strongest, m.messages, m.recipients, m.refused, m.observed, m.first, m.last
  FROM (SELECT m.` + by + ` AS name, m.host_id, m.user_id, coalesce(min(nullif(m.` + by + `_weakest, 0)), 0) AS weakest, max(m.` + by + `_strongest) AS strongest,
               ` + countsSQL + `
          FROM ` + source + ` m WHERE ` + conditions + ` AND m.` + by + ` <> '' GROUP BY m.` + by + `, m.host_id, m.user_id) m`
}

func scanSource(row pgx.CollectableRow) (s Source, err error) {
	var weakest, strongest int16
	err = row.Scan(append([]any{&s.Name, &s.Host, &s.User, &s.host, &s.user, &weakest, &strongest}, s.into()...)...)
	s.Weakest, s.Strongest = origin.Proof(weakest).String(), origin.Proof(strongest).String()
	s.Subjects, s.To = []string{}, []string{}
	return s, err
}

// sampleAll gives samples to sources, hour by hour in which they sent last.
func sampleAll(ctx context.Context, pool *pgxpool.Pool, f Filter, by string, top []Source) error {
	hours := map[time.Time]bool{}
	for i := range top {
		hours[time.Time(top[i].Last).UTC().Truncate(hour)] = true
	}
	since, until := f.bounds()
	for h := range hours {
		some := f
		some.Since, some.Until = latestTime(since, h), earlier(until, h.Add(hour))
		if err := sampleHour(ctx, pool, &some, by, top); err != nil {
			return err
		}
	}
	return nil
}

func latestTime(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

// sampleHour gives samples to those sources that this hour is the last of. It is
// read once for all of them, and the details of a few messages each by key.
func sampleHour(ctx context.Context, pool *pgxpool.Pool, h *Filter, by string, top []Source) error {
	var numbers []int
	var names []string
	var hosts, users []int64
	for i := range top {
		s := &top[i]
		if last := time.Time(s.Last); last.Before(h.Since) || !last.Before(h.Until) {
			continue
		}
		numbers, names, hosts, users = append(numbers, i), append(names, s.Name), append(hosts, int64(s.host)), append(users, int64(s.user))
	}
	if len(numbers) == 0 {
		return nil
	}
	conditions, args := h.where()
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
