package daemon

import (
	"bytes"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"sendmail-wrapper/config"
)

// startMetrics starts a server with metrics, and returns their address.
func startMetrics(t *testing.T, change func(*config.Daemon)) (*running, string) {
	t.Helper()
	r := start(t, func(c *config.Daemon) {
		c.Metrics = "127.0.0.1:0"
		if change != nil {
			change(c)
		}
	})
	for {
		for line := range strings.Lines(r.log.String()) {
			var entry struct{ Message, Address string }
			if json.Unmarshal([]byte(line), &entry) == nil && entry.Message == "metrics are served" {
				return r, entry.Address
			}
		}
		runtime.Gosched()
	}
}

// scrape returns the values of the metrics by name and labels.
func scrape(t *testing.T, address string) map[string]string {
	t.Helper()
	response, err := http.Get("http://" + address + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK || !strings.HasPrefix(response.Header.Get("Content-Type"), "text/plain; version=0.0.4") {
		t.Fatalf("%s %v, %v", response.Status, response.Header, err)
	}
	// https://prometheus.io/docs/instrumenting/exposition_formats: a line a
	// sample, each name and labels once.
	sample := regexp.MustCompile(`^([a-z_]+(?:\{[a-zA-Z_]+="[^"\n]*"(?:, ?[a-zA-Z_]+="[^"\n]*")*\})?) ([0-9.e+-]+)\n$`)
	values := map[string]string{}
	for line := range strings.Lines(string(body)) {
		m := sample.FindStringSubmatch(line)
		if m == nil {
			t.Fatalf("the line %q", line)
		}
		if _, twice := values[m[1]]; twice {
			t.Fatalf("%s comes twice", m[1])
		}
		values[m[1]] = m[2]
	}
	return values
}

func (r *running) wantMetrics(t *testing.T, address string, want map[string]string) {
	t.Helper()
	got := scrape(t, address)
	for name, value := range want {
		if got[name] != value {
			t.Errorf("%s is %q, want %q", name, got[name], value)
		}
	}
}

func TestMetrics(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "policy")
	r, address := startMetrics(t, func(c *config.Daemon) { c.PolicySocket = socket })
	r.limit(t, 1)
	p, err := dialPolicy(socket)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	for _, want := range []string{"DUNNO", "421 4.7.1 limit of 1 "} {
		if action, err := p.ask(message("carol@box.test")); err != nil || !strings.HasPrefix(action, want) {
			t.Fatalf("%q, %v", action, err)
		}
	}
	if _, err := ask(r.socket, "x", "sendmail", "a@x"); err != nil {
		t.Fatal(err)
	}
	stranger, err := dialPolicy(socket)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stranger.Write([]byte("x\n")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(stranger); err != nil {
		t.Fatal(err)
	}
	stranger.Close()
	r.wantMetrics(t, address, map[string]string{
		`mailquotad_build_info{version="test"}`:                  "1",
		`mailquotad_messages_total{decision="accepted"}`:         "1",
		`mailquotad_messages_total{decision="refused"}`:          "2",
		`mailquotad_messages_total{decision="unavailable"}`:      "0",
		"mailquotad_rejected_requests_total":                     "1",
		"mailquotad_database_up":                                 "1",
		"mailquotad_database_down_seconds":                       "0",
		"mailquotad_waiting_messages":                            "0",
		"mailquotad_batches_total":                               "3",
		"mailquotad_decided_messages_total":                      "3",
		"mailquotad_decision_duration_seconds_count":             "3",
		`mailquotad_decision_duration_seconds_bucket{le="+Inf"}`: "3",
		"mailquotad_origin_duration_seconds_count":               "1", // Postfix has no caller
		`mailquotad_journal_messages{state="waiting"}`:           "0",
		`mailquotad_journal_messages{state="failed"}`:            "0",
	})
	for n := 0; scrape(t, address)[`mailquotad_policy_connections{listener="policy-socket"}`] != "1"; n++ { // the stranger's slot is given back after its end
		if n == 1000 {
			t.Fatal("more than the one policy connection")
		}
	}
	if scrape(t, address)["go_memstats_heap_alloc_bytes"] == "" || scrape(t, address)["process_resident_memory_bytes"] == "" {
		t.Error("no metrics of memory")
	}
	for _, c := range []struct {
		method, path string
		status       int
	}{{"GET", "/", 404}, {"GET", "/debug/pprof/", 404}, {"POST", "/metrics", 405}, {"GET", "/metrics/x", 404}, {"GET", "/metrics?" + strings.Repeat("x", 1<<16), 431}} {
		request, err := http.NewRequestWithContext(t.Context(), c.method, "http://"+address+c.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != c.status {
			t.Errorf("%s %.20s: %s", c.method, c.path, response.Status)
		}
	}
}

// TestMetricsWithoutDatabase: they say so.
func TestMetricsWithoutDatabase(t *testing.T) {
	r, address := startMetrics(t, func(c *config.Daemon) {
		c.Database, c.OnDatabaseDown = "host=/nonexistent user=mailquotad dbname=x", "refuse"
	})
	r.wantMetrics(t, address, map[string]string{"mailquotad_database_up": "0"})
	for scrape(t, address)["mailquotad_database_down_seconds"] == "0" {
		time.Sleep(time.Millisecond)
	}
}

// TestMetricsBound: whoever holds many connections holds no more than
// maxScrapers of the daemon's descriptors, and a stop ends them.
func TestMetricsBound(t *testing.T) {
	r, address := startMetrics(t, nil)
	closed := make(chan struct{})
	for range maxScrapers + 1 {
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		go func() {
			io.ReadAll(c)
			closed <- struct{}{}
		}()
	}
	<-closed // one is too many
	r.stop()
	for range maxScrapers {
		<-closed
	}
}

// TestCannotListen: the daemon does not run without what it was told to open.
func TestCannotListen(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for want, change := range map[string]func(*config.Daemon){
		"policy-socket: /etc/passwd exists and is no socket": func(c *config.Daemon) { c.PolicySocket = "/etc/passwd" },
		"metrics: listen tcp":                                func(c *config.Daemon) { c.Metrics = taken.Addr().String() },
	} {
		c := testConfig("host=/nonexistent")
		c.Journal = filepath.Join(t.TempDir(), "journal")
		change(&c)
		s, err := New(c, "v", zerolog.New(io.Discard))
		if err != nil {
			t.Fatal(err)
		}
		l, err := Listen(filepath.Join(t.TempDir(), "s"))
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Serve(t.Context(), l); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
		l.Close()
	}
}

// TestManual: mailquotad(8) explains each of our metrics, and no other.
func TestManual(t *testing.T) {
	_, address := startMetrics(t, nil)
	manual, err := os.ReadFile("../man/mailquotad.8")
	if err != nil {
		t.Fatal(err)
	}
	served := map[string]bool{}
	for name := range scrape(t, address) {
		name, _, _ = strings.Cut(name, "{")
		for _, suffix := range []string{"_bucket", "_sum", "_count"} {
			name = strings.TrimSuffix(name, suffix)
		}
		if strings.HasPrefix(name, "mailquotad_") {
			served[name] = true
			if !bytes.Contains(manual, []byte(".It Cm "+name+"\n")) {
				t.Errorf("the manual does not explain %s", name)
			}
		}
	}
	for _, m := range regexp.MustCompile(`(?m)^\.It Cm (mailquotad_\w+)$`).FindAllSubmatch(manual, -1) {
		if !served[string(m[1])] {
			t.Errorf("the manual explains %s, which there is not", m[1])
		}
	}
}
