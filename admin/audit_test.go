package admin_test

import (
	"crypto/rand"
	"strings"
	"testing"
	"time"

	"sendmail-wrapper/admin"
	"sendmail-wrapper/quota"
)

// TestAuditOfLongPath: a path may be longer than what PostgreSQL has in an index,
// and begin as another one.
func TestAuditOfLongPath(t *testing.T) {
	b, ctx := newBench(t), t.Context()
	var path strings.Builder
	path.WriteByte('/')
	for path.Len() < 4000 { // random, as indexes compress
		path.WriteString(rand.Text())
	}
	for _, name := range []string{path.String(), path.String()[:300]} {
		s, err := admin.ParseSubject("script:"+name, quota.Block)
		b.must(t, err)
		_, err = b.AddException(ctx, quota.Block, s, time.Time{})
		b.must(t, err)
		list, err := b.AuditRows(ctx, admin.AuditFilter{Object: "script:" + name, Actor: "operator", Limit: 10})
		if err != nil || len(list) != 1 {
			t.Errorf("%d rows, %v", len(list), err)
		}
	}
}
