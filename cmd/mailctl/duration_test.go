package main

import (
	"testing"
	"time"

	"github.com/spf13/cobra"
)

// TestEnding: an end is in the future, or an error says what to write.
func TestEnding(t *testing.T) {
	now := time.Date(2026, 11, 28, 12, 0, 0, 0, time.Local)
	for _, c := range []struct {
		option, value string
		want          time.Time // zero: an error
	}{
		{"for", "2h", now.Add(2 * time.Hour)}, {"for", "90m", now.Add(90 * time.Minute)}, {"for", "7d", now.AddDate(0, 0, 7)},
		{"until", "18:00", time.Date(2026, 11, 28, 18, 0, 0, 0, time.Local)}, {"until", "12:00", time.Date(2026, 11, 29, 12, 0, 0, 0, time.Local)},
		{"until", "11:59", time.Date(2026, 11, 29, 11, 59, 0, 0, time.Local)}, {"until", "2026-11-30", time.Date(2026, 11, 30, 0, 0, 0, 0, time.Local)},
		{"until", "2026-11-28 12:01", now.Add(time.Minute)}, {"until", "2026-12-01T00:00:00Z", time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)},
		{"for", "", time.Time{}}, {"for", "0s", time.Time{}}, {"for", "0d", time.Time{}}, {"for", "-1d", time.Time{}}, {"for", "-2h", time.Time{}}, {"for", "2", time.Time{}},
		{"for", "3651d", time.Time{}}, {"for", "9999999999999999999d", time.Time{}}, {"for", "18:00", time.Time{}},
		{"until", "", time.Time{}}, {"until", "2h", time.Time{}}, {"until", "7d", time.Time{}}, {"until", "24:00", time.Time{}}, {"until", "2026-11-28", time.Time{}},
		{"until", "2026-11-28 12:00", time.Time{}}, {"until", "2026-02-30", time.Time{}}, {"until", "evening", time.Time{}},
	} {
		var e ending
		command := &cobra.Command{}
		e.add(command)
		if err := command.Flags().Set(c.option, c.value); err != nil {
			t.Fatal(err)
		}
		got, err := e.parse(command, now)
		if (err != nil) != c.want.IsZero() || !got.Equal(c.want) {
			t.Errorf("--%s %s: %v, %v, want %v", c.option, c.value, got, err, c.want)
		}
	}
}
