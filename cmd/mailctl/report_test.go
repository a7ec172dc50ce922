package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sendmail-wrapper/tests/testpg"
)

// interrupted is what somebody looks at until a page has come for the third time.
type interrupted struct {
	bytes.Buffer
	stop context.CancelFunc
}

func (w *interrupted) Write(p []byte) (int, error) {
	n, err := w.Buffer.Write(p)
	if strings.Count(w.String(), ", each 100ms\n") == 3 {
		w.stop()
	}
	return n, err
}

// TestWatch: a report comes again and again, until it is interrupted, which is no
// error.
func TestWatch(t *testing.T) {
	conf := filepath.Join(t.TempDir(), "mailquotad.conf")
	database := testpg.New(t)
	if err := os.WriteFile(conf, fmt.Appendf(nil, "database = %q\ndatabase-owner = %q\n", testpg.As(database, "mailquotad"), database), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithTimeout(t.Context(), 20*time.Second)
	defer stop()
	out := &interrupted{stop: stop}
	var stderr bytes.Buffer
	if exit := run(ctx, []string{"--config", conf, "report", "top", "--by", "kind", "--watch=100ms"}, out, &stderr); exit != exOK {
		t.Errorf("exit status %d: %s", exit, stderr.String())
	}
	if n := strings.Count(out.String(), ", each 100ms\n"); n != 3 || strings.Contains(out.String(), "\x1b") {
		t.Errorf("%d pages: %q", n, out.String())
	}
	if got := stderr.String(); !strings.HasPrefix(got, "nothing was sent\nnothing was sent\n") {
		t.Errorf("%q", got)
	}
}
