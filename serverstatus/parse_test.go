package serverstatus

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var (
	asked  = time.Unix(1000, 0)
	gotten = asked.Add(3 * time.Millisecond)
)

// between is the span of a request that had lasted so long, give or take slack.
func between(lasted, slack time.Duration) Request {
	return Request{Earliest: asked.Add(-lasted - slack), Latest: gotten.Add(-lasted)}
}

func recorded(t testing.TB, name string) answer {
	t.Helper()
	text, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return answer{text: text, own: "/server-status", asked: asked, gotten: gotten}
}

// fpmAnswer is a status with one row, made of the fields that differ.
func fpmAnswer(row string) answer {
	return answer{text: []byte(`{"pool":"p","total processes":1, "processes":[` + row + `]}`), asked: asked, gotten: gotten}
}

func fpmText(pid int, state, uri, script string) string {
	return fmt.Sprintf(`{"pid":%d,"state":"%s","start time":1,"start since":1,"requests":1,"request duration":1000,"request method":"GET",`+
		`"request uri":"%s","content length":0,"user":"-","script":"%s","last request cpu":0.00,"last request memory":0}`, pid, state, uri, script)
}

func TestFPMWorker(t *testing.T) {
	of := func(lasted time.Duration, script, uri string) Request {
		r := between(lasted, 0)
		r.Script, r.Method, r.URI = script, "GET", uri
		return r
	}
	raw := of(time.Millisecond, "/a.php", "/a.php")
	raw.Raw = true
	forged := of(time.Millisecond, "/x", `/`)
	forged.Raw = true
	long := strings.Repeat("x", 600)
	real := recorded(t, "php-fpm-8.2.36.json")
	tests := []struct {
		name string
		from answer
		pid  int
		want Request
		pool string
		ok   bool
	}{
		{"shutdown function", real, 113, of(2423672*time.Microsecond, "/home/alice/www/pi.php", `/pi.php?q="x\`), "alice.example", true},
		{"after fastcgi_finish_request", real, 115, of(2497492*time.Microsecond, "/home/alice/www/pi.php", "/pi.php?f=1"), "alice.example", true},
		{"idle", real, 114, Request{}, "", false},
		{"not the pool's", real, 11, Request{}, "", false},
		{"none", real, 0, Request{}, "", false},
		{"running", fpmAnswer(fpmText(7, "Running", `\/a.php`, `\/a.php`)), 7, of(time.Millisecond, "/a.php", "/a.php"), "p", true},
		{"reading headers", fpmAnswer(fpmText(7, "Reading headers", "-", "-")), 7, Request{}, "", false},
		{"nothing said", fpmAnswer(fpmText(7, "Running", "-", "-")), 7, of(time.Millisecond, "", ""), "p", true},
		{"path cut", fpmAnswer(fpmText(7, "Running", long[:127]+"?a", long[:255])), 7, of(time.Millisecond, "", long[:127]+"?a…"), "p", true},
		{"query cut", fpmAnswer(fpmText(7, "Running", "a?"+long[:511], long[:251])), 7, of(time.Millisecond, long[:251], "a?"+long[:511]+"…"), "p", true},
		{"characters cut", fpmAnswer(fpmText(7, "Running", long[:126]+"?"+long[:508], long[:252])), 7, of(time.Millisecond, "", long[:126]+"?"+long[:508]+"…"), "p", true},
		{"nothing cut", fpmAnswer(fpmText(7, "Running", long[:123]+"?"+long[:507], long[:251])), 7, of(time.Millisecond, long[:251], long[:123]+"?"+long[:507]), "p", true},
		{"older release", fpmAnswer(fpmText(7, "Running", `/a.php`, `/a.php`)), 7, raw, "p", true},
		// A script whose name ends the row and makes another.
		{"forged end of a row", fpmAnswer(fpmText(7, "Running", `/","content length":0,"script":"/x"},{"pid":8,"a":"`, "/a.php")), 7, forged, "p", true},
		{"forged row, and the right one", fpmAnswer(fpmText(8, "Running", `/"},`+fpmText(7, "Running", `\/x`, `\/x`)+`,{"pid":9,"b":"`, "/a") + "," + fpmText(7, "Running", "/a", "/a")),
			7, Request{}, "", false},
		{"negative duration", fpmAnswer(strings.Replace(fpmText(7, "Running", "-", "-"), ":1000,", ":-1000,", 1)), 7, Request{}, "", false},
		{"endless duration", fpmAnswer(strings.Replace(fpmText(7, "Running", "-", "-"), ":1000,", ":9000000000000000000,", 1)), 7, Request{}, "", false},
		{"cut off", answer{text: real.text[:len(real.text)/2]}, 117, Request{}, "", false},
		{"not JSON", answer{text: []byte(`{"pool":"processes":[{"pid":7,`)}, 7, Request{}, "", false},
		{"empty", answer{}, 7, Request{}, "", false},
	}
	for _, test := range tests {
		got, pool, ok := fpmWorker(test.from, test.pid)
		if diff := cmp.Diff(test.want, got); diff != "" || ok != test.ok || pool != test.pool {
			t.Errorf("%s: pool %q, %v, request (-want +got):\n%s", test.name, pool, ok, diff)
		}
	}
}

func TestScoreboard(t *testing.T) {
	of := func(lasted time.Duration, method, uri, client, host string) Request {
		r := between(lasted, time.Second)
		r.Method, r.URI, r.Client, r.Host = method, uri, client, host
		return r
	}
	prefork, event := recorded(t, "apache-2.4.71-prefork.html"), recorded(t, "apache-2.4.71-event.html")
	old := answer{asked: asked, gotten: gotten, text: []byte(`<table border="0"><tr><th>Srv</th><th>PID</th><th>Acc</th><th>M</th><th>CPU
</th><th>SS</th><th>Req</th><th>Conn</th><th>Child</th><th>Slot</th><th>Client</th><th>VHost</th><th>Request</th></tr>

<tr><td><b>0-0</b></td><td>7</td><td>0/9/9</td><td><b>W</b>
</td><td>0.00</td><td>12</td><td>0</td><td>0.0</td><td>0.00</td><td>0.00
</td><td>2001:db8::1</td><td nowrap>averylongname-of-a-site.example</td><td nowrap>NULL</td></tr>
<tr><td><b>1-0</b></td><td>-</td><td>0/9/9</td><td>.
</td><td>0.00</td><td>12</td><td>0</td><td>0.0</td><td>0.00</td><td>0.00
</td><td>192.0.2.1</td><td nowrap>a.example:80</td><td nowrap>GET / HTTP/1.1</td></tr>
<tr><td><b>2-0</b></td><td>9</td><td>0/9/9</td><td><b>W</b>
</td><td>0.00</td><td>x</td><td>0</td><td>0.0</td><td>0.00</td><td>0.00
</td><td>192.0.2.1</td><td nowrap>a.example:80</td><td nowrap>GET / HTTP/1.1</td></tr>
</table>`)}
	tests := []struct {
		name string
		from answer
		pid  int
		want []Request
	}{
		{"prefork", prefork, 2032, []Request{of(0, "GET", "/sl.php?a=b&c=<x>", "127.0.0.1", "modphp.example")}},
		{"prefork, line cut", prefork, 2016, []Request{of(0, "POST", "/sl.php?long=aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa…", "127.0.0.1", "alice.example")}},
		{"prefork, the question itself", prefork, 2022, nil},
		{"prefork, idle", prefork, 2018, nil},
		{"event", event, 2373, []Request{
			of(0, "GET", "/sl.php?i=1", "127.0.0.1", "alice.example"), of(0, "GET", "/sl.php?i=2", "127.0.0.1", "alice.example"),
			of(0, "GET", "/slow.php?b", "127.0.0.1", "bob.example"),
		}},
		{"event, another process", event, 2374, []Request{of(0, "GET", "/sl.php?i=3", "127.0.0.1", "alice.example")}},
		{"older columns, host cut, no line", old, 7, []Request{of(12*time.Second, "", "", "2001:db8::1", "")}},
		{"a number that is no pid", old, 12, nil},
		{"no time", old, 9, nil},
		{"another page", answer{text: []byte("<html><td>7</td>")}, 7, nil},
		{"nothing", answer{}, 7, nil},
	}
	for _, test := range tests {
		if diff := cmp.Diff(test.want, Scoreboard{test.from}.Of(test.pid)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
	}
	busy := Scoreboard{event}.Busy(100)
	if len(busy) != 2 || len(busy[2373]) != 3 || len(busy[2374]) != 1 {
		t.Errorf("busy processes: %v", busy)
	}
	if busy := (Scoreboard{event}).Busy(1); len(busy) != 1 {
		t.Errorf("busy processes, at most one: %v", busy)
	}
}

// What others send cannot make a row of its own, and no two rows name a process.
func FuzzFPMWorker(f *testing.F) {
	f.Add(`{"pool":"p", "processes":[`+fpmText(7, "Running", `\/a`, `\/a`)+`]}`, `/a"},{"pid":7,"state":"Running`)
	f.Add(`{"pool":"p", "processes":[{"pid":7,`, `\`)
	f.Fuzz(func(t *testing.T, text, uri string) {
		fpmWorker(answer{text: []byte(text)}, 7)
		b, err := json.Marshal(uri)
		if err != nil {
			t.Fatal(err)
		}
		escaped := strings.ReplaceAll(string(b[1:len(b)-1]), "/", `\/`)
		from := fpmAnswer(fpmText(8, "Running", escaped, escaped) + "," + fpmText(7, "Running", `\/a`, `\/a`))
		r, _, ok := fpmWorker(from, 7)
		if !ok || r.Script != "/a" || r.Raw {
			t.Errorf("with a request %q of another, process 7 runs %+v, %v", uri, r, ok)
		}
	})
}

func FuzzScoreboard(f *testing.F) {
	for _, name := range []string{"apache-2.4.71-prefork.html", "apache-2.4.71-event.html"} {
		f.Add(recorded(f, name).text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		s := Scoreboard{answer{text: text}}
		for pid, rows := range s.Busy(50) {
			if pid <= 0 || !bytes.Contains(text, []byte("W")) || len(rows) == 0 {
				t.Errorf("process %d: %v", pid, rows)
			}
			s.Of(pid)
		}
	})
}

func FuzzFCGI(f *testing.F) {
	f.Add(fcgiRecord(fcgiRecord(nil, fcgiStdout, []byte("A: b\r\n\r\n{\"pool\":")), fcgiEnd, make([]byte, 8)))
	f.Add(fcgiRecord(nil, fcgiStderr, []byte("x")))
	f.Add([]byte{1, 6, 0, 1, 255, 255, 255, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		text, err := readFCGI(bytes.NewReader(b))
		if err == nil && !bytes.HasPrefix(text, []byte(`{"pool":`)) {
			t.Errorf("readFCGI(%q) = %q", b, text)
		}
	})
}

// Thousands of processes must not be parsed for one.
func BenchmarkLongAnswers(b *testing.B) {
	var rows []string
	for pid := range 5000 {
		rows = append(rows, fpmText(pid+1, "Running", `\/a.php`, `\/a.php`))
	}
	fpm := fpmAnswer(strings.Join(rows, ","))
	page := string(recorded(b, "apache-2.4.71-prefork.html").text)
	at := strings.Index(page, "\n<tr><td><b>")
	end := strings.Index(page, "</table>\n <hr />")
	var table strings.Builder
	for pid := range 5000 {
		table.WriteString(strings.ReplaceAll(page[at:at+strings.Index(page[at:], "</tr>")+5], ">2016<", fmt.Sprintf(">%d<", pid+10000)))
	}
	apache := Scoreboard{answer{text: []byte(page[:at] + table.String() + page[end:])}}
	b.Run("fpm", func(b *testing.B) {
		for b.Loop() {
			if _, _, ok := fpmWorker(fpm, 4000); !ok {
				b.Fatal("not found")
			}
		}
	})
	b.Run("apache", func(b *testing.B) {
		for b.Loop() {
			if len(apache.Of(14000)) != 1 {
				b.Fatal("not found")
			}
		}
	})
	b.Run("apache, all", func(b *testing.B) {
		for b.Loop() {
			apache.Busy(5000)
		}
	})
}
