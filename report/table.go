package report

import (
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
)

// Table writes a table for people. A cell is a string, a number, a time, or a
// pointer to one; nil shows as "-". What strangers put into a name, so that a
// terminal would obey it, shows as U+FFFD.
func Table(w io.Writer, header []string, rows [][]any) {
	t := table.NewWriter()
	t.SetOutputMirror(w)
	t.SetStyle(table.StyleLight)
	t.Style().Options = table.Options{SeparateColumns: false}
	t.Style().Box.PaddingLeft, t.Style().Box.PaddingRight = "", "  "
	t.Style().Format.Header = text.FormatDefault
	t.SuppressTrailingSpaces()
	head := table.Row{}
	var columns []table.ColumnConfig
	for i, name := range header {
		head = append(head, name)
		if len(rows) > 0 && isNumber(rows[0][i]) {
			columns = append(columns, table.ColumnConfig{Number: i + 1, Align: text.AlignRight, AlignHeader: text.AlignRight})
		}
	}
	t.SetColumnConfigs(columns)
	t.AppendHeader(head)
	for _, row := range rows {
		cells := table.Row{}
		for _, value := range row {
			cells = append(cells, cell(value))
		}
		t.AppendRow(cells)
	}
	t.Render()
}

func isNumber(value any) bool {
	switch value.(type) {
	case int, int64, *int64:
		return true
	}
	return false
}

func cell(value any) string {
	switch v := value.(type) {
	case nil:
		return "-"
	case *string:
		if v == nil {
			return "-"
		}
		return Printable(*v)
	case *int64:
		if v == nil {
			return "-"
		}
		return fmt.Sprint(*v)
	case Time:
		return time.Time(v).Local().Format("2006-01-02 15:04:05")
	case *time.Time:
		if v == nil {
			return "-"
		}
		return v.Local().Format("2006-01-02 15:04")
	case string:
		if v == "" {
			return "-"
		}
		return Printable(v)
	}
	return fmt.Sprint(value)
}

// Printable is a text without what a terminal would obey.
func Printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return unicode.ReplacementChar
		}
		return r
	}, strings.ToValidUTF8(s, "\uFFFD"))
}
