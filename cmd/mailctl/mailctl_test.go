package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/rogpeppe/go-internal/testscript"

	"sendmail-wrapper/origin"
	"sendmail-wrapper/quota"
	"sendmail-wrapper/tests/testpg"
	"sendmail-wrapper/wire"
)

// testMain lets testscript run mailctl as a program, and testpg end its server.
type testMain struct{ m *testing.M }

func (t testMain) Run() int { return testpg.Run(t.m) }

func TestMain(m *testing.M) {
	testscript.Main(testMain{m}, map[string]func(){"mailctl": main})
}

// TestScripts runs testdata/*.txtar, one a promise. Each has a database of its
// own, named in mailquotad.conf of its directory as $CONF, and the commands:
//
//	send UID USER RECIPIENTS [kind=K] [script=S] [crontab=C] [site=S] [sender=S] [mailbox=M]
//	[check=report|refuse]: a message is decided; its id is $ID,
//	and the time $NOW
//	trace STATUS ARGUMENT…: mailctl trace, with the mail log in the directory log; must have that exit status
//	sql STATEMENT: as the owner of the database
//	expand FILE…: $NAME in them becomes the variable's value
//	answer BODY: somebody answers at the daemon's socket, once
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(e *testscript.Env) error {
			database := testpg.New(e.T().(testing.TB))
			conf := filepath.Join(e.WorkDir, "mailquotad.conf")
			e.Setenv("CONF", conf)
			e.Setenv("SOCKET", filepath.Join(e.WorkDir, "s"))
			e.Setenv("TZ", "UTC")
			e.Values["database"] = database
			text := fmt.Sprintf("database = %q\ndatabase-owner = %q\nhost = \"host1\"\nsocket = %q\n",
				testpg.As(database, "mailquotad"), database, filepath.Join(e.WorkDir, "s"))
			return os.WriteFile(conf, []byte(text), 0o600)
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"send": send, "trace": traceHere, "sql": sql, "answer": answer, "expand": expand,
		},
	})
}

func send(ts *testscript.TestScript, _ bool, args []string) {
	pool, err := pgxpool.New(context.Background(), testpg.As(ts.Value("database").(string), "mailquotad"))
	ts.Check(err)
	defer pool.Close()
	uid, err := strconv.ParseUint(args[0], 10, 32)
	ts.Check(err)
	recipients, err := strconv.Atoi(args[2])
	ts.Check(err)
	m := quota.Message{ID: uuid.Must(uuid.NewV7()), Recipients: recipients, Size: 1000, Sender: args[1] + "@host1.example",
		Origin: origin.Origin{UID: uint32(uid), User: args[1], Kind: origin.Shell, KindProof: origin.Claimed}}
	for _, arg := range args[3:] {
		name, value, _ := strings.Cut(arg, "=")
		value, err := strconv.Unquote(`"` + value + `"`)
		ts.Check(err)
		switch name {
		case "kind":
			m.Origin.Kind, m.Origin.KindProof = origin.Kind(value), origin.Kernel
		case "script":
			m.Origin.Script = origin.Fact{Value: value, Proof: origin.Claimed}
		case "crontab":
			m.Origin.Crontab = origin.Fact{Value: value, Proof: origin.System}
		case "site":
			m.Origin.Site = origin.Fact{Value: value, Proof: origin.System}
		case "sender":
			m.Sender = value
		case "mailbox":
			m.Mailbox = value
		case "check":
			m.SenderCheck = quota.ParseSenderCheck(value)
		default:
			ts.Fatalf("send: %s is not known", arg)
		}
	}
	_, err = quota.NewStore(pool, "host1", 1000).Decide(context.Background(), []quota.Message{m})
	ts.Check(err)
	ts.Setenv("ID", m.ID.String())
	ts.Setenv("NOW", time.Now().UTC().Format(time.RFC3339))
}

// traceHere runs within the test: no option says where the mail log is.
func traceHere(ts *testscript.TestScript, _ bool, args []string) {
	line := []string{"--config", ts.Getenv("CONF"), "trace"}
	for _, arg := range args[1:] {
		if strings.HasSuffix(arg, ".eml") {
			arg = ts.MkAbs(arg)
		}
		line = append(line, arg)
	}
	a := &app{stdout: ts.Stdout(), stderr: ts.Stderr(), logDir: ts.MkAbs("log")}
	if exit := strconv.Itoa(a.run(context.Background(), line)); exit != args[0] {
		ts.Fatalf("mailctl %q: exit status %s, want %s", line, exit, args[0])
	}
}

func sql(ts *testscript.TestScript, _ bool, args []string) {
	pool, err := pgxpool.New(context.Background(), ts.Value("database").(string))
	ts.Check(err)
	defer pool.Close()
	var text string
	err = pool.QueryRow(context.Background(), args[0]).Scan(&text)
	ts.Check(err)
	_, err = ts.Stdout().Write([]byte(text + "\n"))
	ts.Check(err)
}

func expand(ts *testscript.TestScript, _ bool, files []string) {
	for _, name := range files {
		path := ts.MkAbs(name)
		text, err := os.ReadFile(path)
		ts.Check(err)
		ts.Check(os.WriteFile(path, []byte(os.Expand(string(text), ts.Getenv)), 0o644))
	}
}

func answer(ts *testscript.TestScript, _ bool, args []string) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: ts.Getenv("SOCKET"), Net: "unix"})
	ts.Check(err)
	ts.Defer(func() { l.Close() })
	go func() {
		c, err := l.AcceptUnix()
		l.Close()
		if err != nil {
			return
		}
		defer c.Close()
		if _, _, err := wire.ReadRequest(c); err == nil {
			_ = wire.WriteReply(c, &wire.Reply{Verdict: wire.VerdictAccept, Body: []byte(args[0])})
		}
	}()
}

func TestParseTime(t *testing.T) {
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		in   string
		want time.Time
	}{
		{"", time.Time{}}, {"24h", now.Add(-24 * time.Hour)}, {"7d", now.Add(-7 * 24 * time.Hour)}, {"90m", now.Add(-90 * time.Minute)},
		{"2026-11-23T14:00:00Z", time.Date(2026, 11, 23, 14, 0, 0, 0, time.UTC)},
		{"2026-11-23", time.Date(2026, 11, 23, 0, 0, 0, 0, time.Local)},
		{"2026-11-23 14:05", time.Date(2026, 11, 23, 14, 5, 0, 0, time.Local)},
	} {
		got, err := parseTime(c.in, now)
		if err != nil || !got.Equal(c.want) {
			t.Errorf("%q: %v, %v", c.in, got, err)
		}
	}
	for _, in := range []string{"yesterday", "-1h", "-3d", "24", "2026-13-01"} {
		if got, err := parseTime(in, now); err == nil {
			t.Errorf("%q: %v", in, got)
		}
	}
}

// TestJSONIsOneLine: programs read a line an object, and a terminal obeys none.
func TestJSONIsOneLine(t *testing.T) {
	var out strings.Builder
	a := &app{stdout: &out}
	value := map[string]string{"a": "<b>\n&é\x1b\u009b\u202e\U000e0001"}
	if err := a.printJSON(value); err != nil {
		t.Fatal(err)
	}
	if want := `{"a":"<b>\n&é\u001b\u009b\u202e\udb40\udc01"}` + "\n"; out.String() != want {
		t.Errorf("%q, want %q", out.String(), want)
	}
	var back map[string]string
	if err := json.Unmarshal([]byte(out.String()), &back); err != nil || back["a"] != value["a"] {
		t.Errorf("%q, %v", back, err)
	}
}
