package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/VictoriaMetrics/metrics"
)

// maxScrapers is the most connections to the metrics at a time. Every user of
// the host may connect, and shall not use up the daemon's descriptors.
const maxScrapers = 16

// decisionBounds are the buckets of the time that a decision takes, in seconds:
// fine where a lone message (1 ms) and a full batch (10 ms) lie, up to the
// longest decision-timeout.
var decisionBounds = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}

// originBounds are those of the time that the look-up of a caller takes: 0.3 ms
// is what it may add to a decision.
var originBounds = []float64{.00005, .0001, .00015, .0002, .00025, .0003, .0004, .0005, .00075, .001, .0015, .0025, .005, .01, .025, .05, .1, .25, 1}

// listenMetrics opens the address of the metrics, nil where they are off.
func (s *Server) listenMetrics() (net.Listener, error) {
	address := s.config().Metrics
	if address == "" {
		return nil, nil
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	return l, nil
}

// serveMetrics answers GET /metrics, and nothing else, until ctx ends.
func (s *Server) serveMetrics(ctx context.Context, l net.Listener) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		s.metrics.WritePrometheus(w)
	})
	var open atomic.Int64
	server := &http.Server{
		Handler:        mux,
		ReadTimeout:    5 * time.Second,
		WriteTimeout:   10 * time.Second,
		IdleTimeout:    2 * time.Minute,
		MaxHeaderBytes: 4 << 10,
		ErrorLog:       log.New(s.log(), "", 0),
		ConnState: func(c net.Conn, state http.ConnState) {
			switch state {
			case http.StateNew:
				if open.Add(1) > maxScrapers {
					c.Close()
				}
			case http.StateClosed:
				open.Add(-1)
			}
		},
	}
	defer context.AfterFunc(ctx, func() { server.Close() })()
	s.log().Info().Stringer("address", l.Addr()).Msg("metrics are served")
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("metrics: %w", err)
	}
	return nil
}

// initMetrics makes the set of metrics; mailquotad(8) explains each.
func (s *Server) initMetrics() {
	s.metrics = metrics.NewSet()
	s.decisionTime = s.metrics.NewPrometheusHistogramExt("mailquotad_decision_duration_seconds", decisionBounds)
	s.originTime = s.metrics.NewPrometheusHistogramExt("mailquotad_origin_duration_seconds", originBounds)
	s.metrics.RegisterMetricsWriter(s.writeMetrics)
	s.metrics.RegisterMetricsWriter(metrics.WriteProcessMetrics)
}

func (s *Server) writeMetrics(w io.Writer) {
	counter := func(name string, n int64) { metrics.WriteCounterUint64(w, "mailquotad_"+name, uint64(n)) }
	gauge := func(name string, v float64) { metrics.WriteGaugeFloat64(w, "mailquotad_"+name, v) }

	gauge(fmt.Sprintf("build_info{version=%q}", s.version), 1)
	counter(`messages_total{decision="accepted"}`, s.counts.accepted.Load())
	counter(`messages_total{decision="refused"}`, s.counts.refused.Load())
	counter(`messages_total{decision="unavailable"}`, s.counts.unavailable.Load())
	counter("early_refusals_total", s.counts.early.Load())
	counter("given_back_messages_total", s.counts.givenBack.Load())
	counter("unknown_clients_total", s.counts.unknownClients.Load())
	counter("rejected_requests_total", s.counts.rejected.Load())
	calls, waiting := s.turns.count()
	gauge("calls", float64(calls-waiting))
	gauge("calls_waiting", float64(waiting))
	bySocket, evictedSocket := s.policySocket.count()
	byPort, evictedPort := s.policyPort.count()
	gauge(`policy_connections{listener="policy-socket"}`, float64(bySocket))
	gauge(`policy_connections{listener="policy-listen"}`, float64(byPort))
	counter(`policy_connections_evicted_total{listener="policy-socket"}`, evictedSocket)
	counter(`policy_connections_evicted_total{listener="policy-listen"}`, evictedPort)
	counter("policy_connections_refused_total", s.counts.strangers.Load())
	gauge("policy_requests", float64(len(s.questions)))

	queue := s.database.queue.State()
	counter("batches_total", queue.Batches)
	counter("remembered_batches_total", queue.Remembered)
	counter("decided_messages_total", queue.Decided)
	gauge("waiting_messages", float64(queue.Waiting))
	up, down := 1.0, time.Duration(0)
	if queue.Trouble != "" {
		up, down = 0, time.Since(queue.Since)
	}
	gauge("database_up", up)
	gauge("database_down_seconds", down.Seconds())
	gauge(`journal_messages{state="waiting"}`, float64(queue.Journal.Messages))
	gauge(`journal_messages{state="failed"}`, float64(queue.Journal.Failed))
	counter("journal_unrecorded_total", queue.Journal.Unrecorded)
	gauge("journal_bytes", float64(queue.Journal.Bytes))
}
