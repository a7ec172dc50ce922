package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"strings"
	"text/tabwriter"
	"unicode/utf8"
)

// report is build/bench.json, or build/bench-peers.json.
type report struct {
	Machine  machine   `json:"machine"`
	Rounds   int       `json:"rounds"`
	Seconds  int       `json:"seconds"` // of one measurement
	Rows     []row     `json:"rows"`
	Settings []setting `json:"settings,omitempty"`
	Failures []string  `json:"failures,omitempty"`
}

// setting is what a service was set to, for the reader.
type setting struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Command string `json:"command"`
	File    string `json:"file"` // its configuration
}

// row is one figure. Value is the median of the rounds, Ratio the median of the
// rounds' ratios to the figure that Reference names.
type row struct {
	Block     string    `json:"block"`
	Name      string    `json:"name"`
	Value     float64   `json:"value"`
	Min       float64   `json:"min"`
	Max       float64   `json:"max"`
	Unit      string    `json:"unit"`
	Ratio     float64   `json:"ratio,omitempty"`
	RatioMin  float64   `json:"ratio_min,omitempty"`
	RatioMax  float64   `json:"ratio_max,omitempty"`
	Reference string    `json:"reference,omitempty"`
	Rounds    []float64 `json:"rounds"`
	Latency   *latency  `json:"latency_ms,omitempty"`
	CPU       *cpu      `json:"cpu_us,omitempty"`
	Note      string    `json:"note,omitempty"`
}

// latency is how long callers waited, in milliseconds.
type latency struct {
	P50  float64 `json:"p50"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p99_9"`
	Max  float64 `json:"max"`
}

// cpu is the processor time of one message, in microseconds.
type cpu struct {
	Postgres  float64 `json:"postgresql"`
	Daemon    float64 `json:"daemon"`
	Generator float64 `json:"generator"` // of what asks: part of the measurement, not of the service
}

// columns are the cells of a row, the same in the table and in markdown.
func (r *row) columns() []string {
	c := []string{r.Name, number(r.Value), "", r.Unit, "", "", "", "", r.Note}
	if len(r.Rounds) > 1 {
		c[2] = number(r.Min) + "–" + number(r.Max)
	}
	if r.Ratio != 0 {
		c[4] = fmt.Sprintf("%.2f", r.Ratio)
		if len(r.Rounds) > 1 {
			c[4] += fmt.Sprintf(" (%.2f–%.2f)", r.RatioMin, r.RatioMax)
		}
		c[5] = r.Reference
	}
	if l := r.Latency; l != nil {
		c[6] = fmt.Sprintf("%s / %s / %s", number(l.P50), number(l.P99), number(l.P999))
	}
	if u := r.CPU; u != nil {
		c[7] = fmt.Sprintf("%.0f + %.0f + %.0f", u.Postgres, u.Daemon, u.Generator)
	}
	return c
}

var head = []string{"figure", "value", "least–most", "unit", "ratio", "to", "p50 / p99 / p99.9 ms", "CPU µs", ""}

func (r *report) print(out io.Writer) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, strings.Join(head, "\t"))
	block := ""
	for i := range r.Rows {
		if b := r.Rows[i].Block; b != block {
			block = b
			fmt.Fprintf(w, "-- %s%s\n", b, strings.Repeat("\t", len(head)-1))
		}
		fmt.Fprintln(w, strings.Join(r.Rows[i].columns(), "\t"))
	}
	w.Flush()
	fmt.Fprintln(out, "\n"+r.Machine.String())
	fmt.Fprintln(out, "CPU: of one message, PostgreSQL + daemon + what asks (the last is part of the measurement, not of the service)")
	for _, s := range r.Settings {
		fmt.Fprintf(out, "\n%s (%s): %s\n%s", s.Name, s.Version, s.Command, indented(s.File))
	}
	for _, f := range r.Failures {
		fmt.Fprintln(out, "FAILED", f)
	}
}

// printMarkdown prints the tables of docs/performance.md.
func printMarkdown(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var r report
	if err := json.Unmarshal(text, &r); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	fmt.Printf("%s; %s of %d s.\n", r.Machine.String(), many(r.Rounds, "round"), r.Seconds)
	block := ""
	for i := range r.Rows {
		if b := r.Rows[i].Block; b != block {
			block = b
			fmt.Printf("\n### %s\n\n| %s |\n|%s\n", strings.ToUpper(b[:1])+b[1:], strings.Join(head, " | "), strings.Repeat(" --- |", len(head)))
		}
		fmt.Printf("| %s |\n", strings.Join(r.Rows[i].columns(), " | "))
	}
	for _, s := range r.Settings {
		fmt.Printf("\n%s %s: `%s`\n\n%s", s.Name, s.Version, s.Command, indented(s.File))
	}
	for _, f := range r.Failures {
		fmt.Println("\nFailed:", f)
	}
	return nil
}

func indented(text string) string {
	return "    " + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n    ") + "\n"
}

// number writes three significant digits, and all of those before the point.
func number(v float64) string {
	switch a := math.Abs(v); {
	case a == math.Trunc(a) && a < 1000:
		return fmt.Sprintf("%.0f", v)
	case a >= 100:
		return thousands(fmt.Sprintf("%.0f", v))
	case a >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

func thousands(digits string) string {
	for i := utf8.RuneCountInString(digits) - 3; i > 0 && digits[i-1] != '-'; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}
