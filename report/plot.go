package report

import (
	"fmt"
	"io"
	"time"

	"github.com/guptarohit/asciigraph"
)

// plotHeight is how many lines a plot has, plotMargin how many columns its axis.
const plotHeight, plotMargin = 12, 14

// Plot draws the messages that were let through, as wide as the terminal.
func Plot(w io.Writer, list []Total, hours bool) error {
	series := []float64{}
	for _, t := range WithGaps(list, hours) {
		series = append(series, float64(t.Messages))
	}
	if len(series) == 1 {
		series = append(series, series[0]) // a line needs two ends
	}
	unit := "day"
	if hours {
		unit = "hour"
	}
	const layout = "2006-01-02 15:04 UTC"
	first, last := time.Time(list[0].At).UTC(), time.Time(list[len(list)-1].At).UTC()
	_, err := fmt.Fprintln(w, asciigraph.Plot(series, asciigraph.Height(plotHeight), asciigraph.Width(max(width(w)-plotMargin, 20)),
		asciigraph.LowerBound(0), asciigraph.Precision(0),
		asciigraph.Caption(fmt.Sprintf("messages per %s, from %s to %s", unit, first.Format(layout), last.Format(layout)))))
	return err
}
