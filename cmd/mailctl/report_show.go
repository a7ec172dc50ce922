package main

import (
	"context"
	"encoding/csv"
	"fmt"
	"io"
	"strings"
	"time"

	"sendmail-wrapper/report"
)

// sheet is what a report says, a row each.
type sheet struct {
	header []string
	rows   [][]any
	none   string // said to people where there are no rows
}

// show writes a report as it was asked for.
func (a *app) show(q *query, value any, s sheet) error {
	switch {
	case a.json:
		return a.printJSON(value)
	case q.csv:
		w := newCSV(a.stdout, s.header)
		for _, row := range s.rows {
			w.row(row)
		}
		return w.end()
	case len(s.rows) == 0:
		fmt.Fprintln(a.stderr, s.none)
		return nil
	}
	report.Table(a.stdout, s.header, s.rows)
	return nil
}

// csvWriter writes RFC 4180 with a header. Its errors come at the end.
type csvWriter struct{ w *csv.Writer }

func newCSV(out io.Writer, header []string) csvWriter {
	c := csvWriter{csv.NewWriter(out)}
	c.w.Write(header)
	return c
}

func (c csvWriter) row(values []any) {
	cells := make([]string, len(values))
	for i, v := range values {
		cells[i] = csvCell(v)
	}
	c.w.Write(cells)
}

func (c csvWriter) end() error {
	c.w.Flush()
	return c.w.Error()
}

func csvCell(value any) string {
	switch v := value.(type) {
	case nil:
		return ""
	case *string:
		if v == nil {
			return ""
		}
		return csvText(*v)
	case string:
		return csvText(v)
	}
	return fmt.Sprint(value) // numbers, and times in UTC
}

// csvText is a text that a spreadsheet takes for none of its formulas, which would
// run in the place of whoever opens it: script names are a stranger's choice. An
// apostrophe before it is what OWASP's page "CSV Injection" advises.
func csvText(s string) string {
	if s = report.Printable(s); strings.HasPrefix(s, "\uFFFD") || s != "" && strings.ContainsRune("=+-@", rune(s[0])) {
		return "'" + s
	}
	return s
}

// watch shows a report again and again, until it is interrupted.
func (a *app) watch(ctx context.Context, q *query, run func(ctx context.Context, q *query) error) error {
	for {
		if report.IsTerminal(a.stdout) {
			fmt.Fprint(a.stdout, "\x1b[H\x1b[2J") // to the upper left, and clear (ECMA-48 8.3.21, 8.3.39)
		}
		now := time.Now()
		fmt.Fprintf(a.stdout, "%s, each %s\n", now.Format("2006-01-02 15:04:05"), q.watch)
		err := q.parseTimes(now)
		if err == nil {
			err = run(ctx, q)
		}
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(q.watch):
		}
	}
}
