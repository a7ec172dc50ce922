package report

import (
	"context"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"sendmail-wrapper/quota"
)

// typedSQL are the names of a class's objects as they are typed, with the name
// by which an index has them. $2 is the host whose users need no @HOST.
var typedSQL = map[quota.Class]struct{ names, index string }{
	quota.Plan:         {`SELECT name FROM plan WHERE removed_at IS NULL`, "name"},
	quota.Subscription: {`SELECT name FROM subscription WHERE removed_at IS NULL`, "name"},
	quota.Domain:       {`SELECT name FROM domain WHERE removed_at IS NULL`, "name"},
	quota.Mailbox:      {`SELECT address FROM mailbox WHERE removed_at IS NULL`, "address"},
	quota.User: {`SELECT CASE WHEN h.name = $2 THEN u.name ELSE u.name || '@' || h.name END FROM system_user u JOIN host h ON h.id = u.host_id
 WHERE u.removed_at IS NULL`, "u.name"},
}

// mostRead bounds how many names a search reads, so that it takes some
// milliseconds, however many there are.
const mostRead = 5000

// NamesFrom returns names of objects of a class that begin with a prefix, most of
// them at the most, in order. Names of users of another host than the given one
// end in @HOST.
func NamesFrom(ctx context.Context, pool *pgxpool.Pool, class quota.Class, host, prefix string, most int) ([]string, error) {
	q, ok := typedSQL[class]
	if !ok {
		return nil, nil
	}
	if class == quota.Domain || class == quota.Mailbox {
		prefix = strings.ToLower(prefix)
	}
	begin := prefix
	if class == quota.User {
		begin, _, _ = strings.Cut(prefix, "@")
	}
	// Not LIKE: an index in the order of a language is of no use to it.
	return readNames(ctx, pool, fmt.Sprintf(`SELECT name FROM (%s AND %s >= $1 AND $2 = $2 ORDER BY %[2]s LIMIT %d) n (name) WHERE starts_with(name, $3) LIMIT %d`,
		q.names, q.index, mostRead, most), begin, host, prefix)
}

func readNames(ctx context.Context, pool *pgxpool.Pool, sql string, args ...any) ([]string, error) {
	rows, err := pool.Query(ctx, sql, args...)
	if err != nil {
		return nil, fmt.Errorf("read names: %w", err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("read names: %w", err)
	}
	return list, nil
}

// Nearest returns the name of an object that somebody may have meant who wrote
// another one; "" if there is none. Where there are many, it looks at some of
// those that begin alike or are about as long.
func Nearest(ctx context.Context, pool *pgxpool.Pool, o quota.Object, host string) (string, error) {
	q, ok := typedSQL[o.Class]
	if !ok || len(o.Name) > 254 || !utf8.ValidString(o.Name) || strings.Contains(o.Name, "\x00") {
		return "", nil
	}
	letters := []rune(o.Name)
	var all []string
	for _, n := range []int{max(len(letters)-2, 1), len(letters)/2 + 1, 1} {
		list, err := NamesFrom(ctx, pool, o.Class, host, string(letters[:min(n, len(letters))]), mostRead)
		if err != nil {
			return "", err
		}
		all = append(all, list...)
	}
	list, err := readNames(ctx, pool, fmt.Sprintf(`SELECT name FROM (%s AND $2 = $2) n (name) WHERE length(name) BETWEEN $1 - 2 AND $1 + 2 LIMIT %d`, q.names, mostRead),
		len(letters), host)
	if err != nil {
		return "", err
	}
	return NearestWord(o.Name, append(all, list...)), nil
}

// NearestWord is the word that somebody may have meant who wrote another one:
// where two slips of the pen lie between them at the most, and not all of a short
// one, or that begins with what he wrote; "" if there is none.
func NearestWord(wrote string, words []string) string {
	best, nearest := "", 3
	for _, word := range words {
		if d := slips(wrote, word, nearest); d < nearest && d < utf8.RuneCountInString(wrote) {
			best, nearest = word, d
		}
	}
	if best != "" || len(wrote) < 2 {
		return best
	}
	for _, word := range words {
		if strings.HasPrefix(word, wrote) && (best == "" || len(word) < len(best)) {
			best = word
		}
	}
	return best
}

// slips counts what must be changed, left out, put in or swapped with its
// neighbour to make b of a (optimal string alignment distance); it is most or
// more where that is all that matters.
func slips(a, b string, most int) int {
	x, y := []rune(a), []rune(b)
	if max(len(x)-len(y), len(y)-len(x)) >= most {
		return most
	}
	before, last, now := make([]int, len(y)+1), make([]int, len(y)+1), make([]int, len(y)+1)
	for j := range last {
		last[j] = j
	}
	for i := range x {
		now[0] = i + 1
		least := now[0]
		for j := range y {
			change := last[j]
			if x[i] != y[j] {
				change++
			}
			now[j+1] = min(change, last[j+1]+1, now[j]+1)
			if i > 0 && j > 0 && x[i] == y[j-1] && x[i-1] == y[j] {
				now[j+1] = min(now[j+1], before[j-1]+1)
			}
			least = min(least, now[j+1])
		}
		if least > most {
			return most
		}
		before, last, now = last, now, before
	}
	return last[len(y)]
}
