package daemon

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"sendmail-wrapper/config"
	"sendmail-wrapper/origin"
	"sendmail-wrapper/quota"
	"sendmail-wrapper/sendmail"
	"sendmail-wrapper/wire"
)

// TestLogLine: it has each fact that is known, with its proof, and none that is not.
func TestLogLine(t *testing.T) {
	r := start(t, nil)
	proofs := []origin.Proof{origin.Claimed, origin.System, origin.Kernel}
	for missing := range 12 {
		m := quota.Message{Recipients: 3, Origin: origin.Origin{UID: 7, User: "u", Kind: origin.Cron, KindProof: origin.System}}
		want, n := map[string]string{"kind": "cron", "kind_proof": "system"}, 0
		for name, f := range m.Origin.Facts() {
			if n++; n != missing {
				*f = origin.Fact{Value: "the " + name + " \x00\xff", Proof: proofs[n%3]}
				want[name], want[name+"_proof"] = "the "+name+" \x00\uFFFD", proofs[n%3].String()
			} else {
				want[name], want[name+"_proof"] = "", ""
			}
		}
		if missing > 0 {
			m.Details.MessageID = "<1@x>"
		}
		want["message_id"] = m.Details.MessageID
		r.logDecision(&m, &quota.Decision{Subscription: "s"}, time.Second)
		lines := strings.Split(strings.TrimSpace(r.log.String()), "\n")
		got := map[string]any{}
		if err := json.Unmarshal([]byte(lines[len(lines)-1]), &got); err != nil {
			t.Fatal(err)
		}
		for name, value := range want {
			if got[name] != value && (got[name] != nil || value != "") {
				t.Errorf("without the %d. fact: %s is %q, want %q", missing, name, got[name], value)
			}
		}
	}
}

// TestRecordRequests: what a web request says of itself and its visitor is neither
// in the row nor in the log where it is not to be, the rest is.
func TestRecordRequests(t *testing.T) {
	for _, record := range []bool{true, false} {
		r := start(t, func(c *config.Daemon) { c.RecordRequests = record })
		m := quota.Message{Recipients: 1, Origin: origin.Origin{UID: uint32(os.Getuid()), User: "u", Kind: origin.PHPFPM, KindProof: origin.Kernel}}
		for name, f := range m.Origin.Facts() {
			*f = origin.Fact{Value: "the-" + name, Proof: origin.System}
		}
		if reply, _ := r.decide(&m, false, time.Now()); reply.Verdict != wire.VerdictAccept {
			t.Fatalf("%+v", reply)
		}
		var row string
		if err := r.owner.QueryRow(t.Context(), `SELECT facts::text FROM messages`).Scan(&row); err != nil {
			t.Fatal(err)
		}
		for where, text := range map[string]string{"row": row, "log": r.log.String()} {
			for name, want := range map[string]bool{"method": record, "uri": record, "client": record, "document_root": true} {
				if strings.Contains(text, "the-"+name) != want {
					t.Errorf("record-requests = %v: %s in the %s is %v", record, name, where, !want)
				}
			}
		}
	}
}

// TestDetailsDays: maintenance drops details by their own days, and no messages.
func TestDetailsDays(t *testing.T) {
	r := start(t, func(c *config.Daemon) {
		c.DetailsDays = 2
		conn, err := pgx.Connect(t.Context(), c.Database)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(t.Context())
		if _, err := conn.Exec(t.Context(), `SELECT make_partitions((now() AT TIME ZONE 'UTC')::date - 5, 5)`); err != nil {
			t.Fatal(err)
		}
	})
	days := func(table string) (oldest string) {
		t.Helper()
		err := r.owner.QueryRow(t.Context(), `SELECT (now() AT TIME ZONE 'UTC')::date - to_date(min(right(relname, 8)), 'YYYYMMDD') FROM pg_class
			WHERE relkind = 'r' AND relname ~ ('^' || $1 || '_[0-9]{8}$')`, table).Scan(&oldest)
		if err != nil {
			t.Fatal(err)
		}
		return oldest
	}
	for end := time.Now().Add(20 * time.Second); days("details") != "2" && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
	if d, m := days("details"), days("messages"); d != "2" || m != "5" {
		t.Errorf("details of %s days are left, messages of %s", d, m)
	}
}

// TestSumsAreMade: the daemon sums up what is over as soon as it runs.
func TestSumsAreMade(t *testing.T) {
	r := start(t, func(c *config.Daemon) {
		conn, err := pgx.Connect(t.Context(), c.Database)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(t.Context())
		if _, err := conn.Exec(t.Context(), `SELECT make_partitions((now() AT TIME ZONE 'UTC')::date - 3, 3)`); err != nil {
			t.Fatal(err)
		}
	})
	days := 0
	for end := time.Now().Add(20 * time.Second); days < 2 && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
		if err := r.owner.QueryRow(t.Context(), `SELECT count(*) FROM summed WHERE span = 'day' AND NOT dirty`).Scan(&days); err != nil {
			t.Fatal(err)
		}
	}
	if days < 2 { // yesterday may not be over for an hour yet
		t.Errorf("%d days are summed up", days)
	}
}

// TestTrace: an accepted message brings its id in the field that is configured, and
// with it what the report may keep.
func TestTrace(t *testing.T) {
	const message = "From joe\nTo: Joe <a@x>, b@x\nSubject: s\nMessage-ID: <1@x>\n\nx"
	submit := func(profile string, argv ...string) wire.Request {
		return wire.Request{Op: wire.OpSubmit, Profile: profile, Argv: argv, Recipients: 1}
	}
	r := start(t, func(c *config.Daemon) { c.TraceHeader = "X-Id" })
	for _, c := range []struct {
		name     string
		request  wire.Request
		message  string
		verdict  wire.Verdict
		text     string // ID for the id
		traceAt  int64
		truncate bool
	}{
		{"behind the From_ line", submit("postfix", "sendmail", "-t"), message, wire.VerdictAccept, "X-Id: ID\n", 9, false},
		{"a dialogue", submit("postfix", "sendmail", "-bs"), "Subject: s\r\n\r\n", wire.VerdictAccept, "X-Id: ID\r\n", 0, false},
		{"an empty message", submit("postfix", "sendmail", "a@x"), "", wire.VerdictAccept, "X-Id: ID\n", 0, false},
		{"a place that is not sure", submit("dma", "sendmail", "a@x"), " x\n", wire.VerdictAccept, "", 0, false},
		{"a probe", submit("postfix", "sendmail", "-bv", "a@x"), "", wire.VerdictAccept, "", 0, false},
		{"refused", submit("postfix", "sendmail", "a@x"), "x", wire.VerdictRefuse, "", 0, true},
	} {
		c.request.Truncated = c.truncate
		reply, err := wire.Ask(r.socket, &c.request, mustSeal(t, c.message), time.Minute)
		if err != nil || reply.Verdict != c.verdict || reply.Trace != strings.ReplaceAll(c.text, "ID", reply.ID) || reply.TraceAt != c.traceAt {
			t.Errorf("%s: %+v, %v", c.name, reply, err)
		}
	}
	for _, c := range []struct {
		subjects, to bool
		want         quota.Details
	}{
		{true, true, quota.Details{MessageID: "<1@x>", Subject: "s", To: []string{"a@x"}}},
		{false, false, quota.Details{MessageID: "<1@x>"}},
	} {
		var s Server
		s.settings.Store(&settings{config: config.Daemon{RecordSubjects: c.subjects, RecordRecipients: c.to}})
		got := s.details(&sendmail.Envelope{MessageID: "<1@x>", Subject: "s", Addresses: []string{"a@x"}})
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Error(diff)
		}
	}
	off := start(t, func(c *config.Daemon) { c.TraceHeader = "" })
	if reply, err := ask(off.socket, message, "sendmail", "-t"); err != nil || reply.Verdict != wire.VerdictAccept || reply.Trace != "" {
		t.Errorf("without the field: %+v, %v", reply, err)
	}
}
