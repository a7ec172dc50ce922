package report

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
)

// Table writes a table for people. A cell is a string, a number, a time, or a
// pointer to one; nil shows as "-". What strangers put into a name, so that a
// terminal would obey it, shows as U+FFFD.
//
// On a terminal, texts are cut with … so that no line wraps, and what was refused
// or observed has a colour. What goes to a program is whole, and has none.
func Table(w io.Writer, header []string, rows [][]any) {
	t := table.NewWriter()
	t.SetOutputMirror(w)
	t.SetStyle(table.StyleLight)
	t.Style().Options = table.Options{SeparateColumns: false}
	t.Style().Box.PaddingLeft, t.Style().Box.PaddingRight = "", gap
	t.Style().Format.Header = text.FormatDefault
	t.SuppressTrailingSpaces()
	var columns []table.ColumnConfig
	for i := range header {
		if len(rows) > 0 && isNumber(rows[0][i]) {
			columns = append(columns, table.ColumnConfig{Number: i + 1, Align: text.AlignRight, AlignHeader: text.AlignRight})
		}
	}
	t.SetColumnConfigs(columns)
	cells := make([][]string, len(rows))
	for n, row := range rows {
		for _, value := range row {
			cells[n] = append(cells[n], cell(value))
		}
	}
	head := slices.Clone(header)
	if width := width(w); width > 0 {
		fit(width, head, rows, cells)
	}
	painted := paints(w)
	t.AppendHeader(tableRow(head, func(_ int, name string) string {
		if painted && name != "" {
			return paint(Bold, name)
		}
		return name
	}))
	for n, row := range cells {
		t.AppendRow(tableRow(row, func(i int, text string) string {
			if c := colour(header[i], rows[n][i]); painted && c != "" {
				return paint(c, text)
			}
			return text
		}))
	}
	t.Render()
}

// gap is between columns.
const gap = "  "

func tableRow(cells []string, as func(i int, text string) string) table.Row {
	row := make(table.Row, len(cells))
	for i, text := range cells {
		row[i] = as(i, text)
	}
	return row
}

// colour is that of a cell: of a decision that was none to let mail through, and
// of a count of such ones.
func colour(column string, value any) Colour {
	word := column
	switch v := value.(type) {
	case string:
		if column != "decision" {
			return ""
		}
		word = v
	case int64:
		if v == 0 {
			return ""
		}
	default:
		return ""
	}
	switch word {
	case "refused":
		return Red
	case "observed":
		return Yellow
	}
	return ""
}

// least is what is left of a text that is cut.
const least = 8

// fit cuts texts, those of the widest columns first, so that a line has no more
// than width columns. Numbers and times stay whole, and so may be too much.
func fit(width int, head []string, rows [][]any, cells [][]string) {
	widths, texts := make([]int, len(head)), make([]bool, len(head))
	total := -len(gap)
	for i, name := range head {
		widths[i] = text.StringWidth(name)
		for n := range rows {
			widths[i] = max(widths[i], text.StringWidth(cells[n][i]))
			texts[i] = texts[i] || isText(rows[n][i])
		}
		total += widths[i] + len(gap)
	}
	for total > width {
		widest := -1
		for i, w := range widths {
			if texts[i] && w > least && (widest < 0 || w > widths[widest]) {
				widest = i
			}
		}
		if widest < 0 {
			break
		}
		widths[widest]--
		total--
	}
	for i := range head {
		if !texts[i] {
			continue
		}
		head[i] = cut(head[i], widths[i])
		for n := range cells {
			cells[n][i] = cut(cells[n][i], widths[i])
		}
	}
}

// cut leaves width columns of a text; of a path, or a line of a crontab, its end,
// where the file's name is, and the directory that it begins with:
// /home/…/mailer.php.
func cut(s string, width int) string {
	if text.StringWidth(s) <= width {
		return s
	}
	if !strings.HasPrefix(s, "/") {
		return text.Trim(s, width-1) + "…"
	}
	head := s[:1+strings.Index(s[1:]+"/", "/")]
	if head != s {
		head += "/"
	}
	if text.StringWidth(head) > width/2 {
		head = ""
	}
	head += "…"
	room := width - text.StringWidth(head)
	tail := len(s)
	for tail > 0 {
		r, size := utf8.DecodeLastRuneInString(s[:tail])
		if room -= text.RuneWidth(r); room < 0 {
			break
		}
		tail -= size
	}
	// A name that is whole is easier to read than one with some letters before it.
	if i := strings.Index(s[tail:], "/"); i >= 0 && !strings.Contains(s, " ") {
		tail += i
	}
	return head + s[tail:]
}

func isText(value any) bool {
	switch value.(type) {
	case string, *string:
		return true
	}
	return false
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
