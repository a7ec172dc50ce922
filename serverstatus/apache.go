package serverstatus

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"html"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"
)

// apacheUser is the name with which Apache is asked.
const apacheUser = "mailquota"

// Apache is the server-status page of Apache (mod_status, with ExtendedStatus as
// is its default). It is safe for concurrent use.
type Apache struct {
	url     *url.URL
	port    uint16
	key     string
	client  http.Client
	sharing sharing
}

// NewApache returns the page at an address with a port on this host, asked for as
// user mailquota with the password in file key, "" for none. It is not asked while
// others than root can listen there.
func NewApache(address, key string) (*Apache, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, fmt.Errorf("address of Apache's server-status: %w", err)
	}
	host, err := netip.ParseAddr(u.Hostname())
	port, errPort := strconv.ParseUint(u.Port(), 10, 16)
	if u.Scheme != "http" || err != nil || !host.IsLoopback() || errPort != nil {
		return nil, fmt.Errorf("address %q of Apache's server-status: must be as http://127.0.0.1:797/server-status", address)
	}
	a := &Apache{url: &url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}, port: uint16(port), key: key}
	a.client = http.Client{
		Transport: &http.Transport{
			DialContext:         (&net.Dialer{}).DialContext,
			MaxConnsPerHost:     1,
			IdleConnTimeout:     keepAlive,
			DisableCompression:  true,
			MaxIdleConnsPerHost: 1,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	a.sharing.fetch = a.fetch
	return a, nil
}

// Scoreboard is one answer of Apache.
type Scoreboard struct{ answer answer }

// Scoreboard asks for the page; false if it is not to be had.
func (a *Apache) Scoreboard() (Scoreboard, bool) {
	got, ok := a.sharing.get()
	return Scoreboard{got}, ok
}

// fetch asks with a query that nobody can guess, by which the row of the question
// itself is told from those of visitors who ask for the same page.
func (a *Apache) fetch(deadline time.Time) (answer, error) {
	text, own, err := a.ask(deadline)
	if err != nil {
		return answer{}, fmt.Errorf("ask Apache for its status: %w", err)
	}
	return answer{text: text, own: own}, nil
}

func (a *Apache) ask(deadline time.Time) (text []byte, own string, err error) {
	if !RootsPort(a.port) {
		return nil, "", fmt.Errorf("everybody can listen on port %d", a.port)
	}
	ctx, cancel := context.WithDeadline(context.Background(), deadline)
	defer cancel()
	u := *a.url
	u.RawQuery = rand.Text()[:8]
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, "", err
	}
	if a.key != "" {
		// Read each time: who changes the password need not restart anything.
		key, err := os.ReadFile(a.key)
		if err != nil {
			return nil, "", err
		}
		req.SetBasicAuth(apacheUser, strings.TrimSpace(string(key)))
	}
	resp, err := a.client.Do(req)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	text, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	switch {
	case err != nil:
		return nil, "", err
	case resp.StatusCode != http.StatusOK:
		return nil, "", errors.New(resp.Status)
	case len(text) == maxAnswer || !bytes.Contains(text, []byte("<th>PID</th>")):
		return nil, "", errors.New("the answer is not a status with ExtendedStatus on")
	}
	return text, u.RequestURI(), nil
}

// Of returns the requests that a process answers, but for the question itself: one
// at most with the prefork MPM, with others as many as it has busy threads.
func (s Scoreboard) Of(pid int) []Request {
	var list []Request
	cell := []byte(strconv.Itoa(pid) + "</td>") // a rarer beginning than that of <td>
	head, rest := s.table()
	for {
		at := bytes.Index(rest, cell)
		if at < 0 {
			return list
		}
		from := bytes.LastIndex(rest[:at], []byte("<tr>"))
		to := bytes.Index(rest[at:], []byte("</tr>"))
		if from < 0 || to < 0 {
			return list
		}
		if p, r, ok := s.row(head, rest[from:at+to]); ok && p == pid {
			list = append(list, r)
		}
		rest = rest[at+to:]
	}
}

// Busy returns the requests that are being answered by process, at most limit.
func (s Scoreboard) Busy(limit int) map[int][]Request {
	busy := make(map[int][]Request)
	head, rest := s.table()
	for limit > 0 {
		row, after, ok := bytes.Cut(rest, []byte("</tr>"))
		if !ok {
			break
		}
		if pid, r, ok := s.row(head, row); ok {
			busy[pid] = append(busy[pid], r)
			limit--
		}
		rest = after
	}
	return busy
}

// columns says where in a row things stand: the columns have changed between
// releases of Apache 2.4.
type columns struct{ pid, mode, since, client, host, request int }

// table returns the columns, and the rows after them.
func (s Scoreboard) table() (columns, []byte) {
	_, rest, _ := bytes.Cut(s.answer.text, []byte("<tr><th>Srv</th><th>PID</th>"))
	head, rest, _ := bytes.Cut(rest, []byte("</tr>"))
	c := columns{pid: 1, mode: -1, since: -1, client: -1, host: -1, request: -1}
	for i, name := range bytes.Split(head, []byte("<th>")) {
		i++ // the two before
		name, _, _ := bytes.Cut(name, []byte("<"))
		switch string(bytes.TrimSpace(name)) {
		case "M":
			c.mode = i
		case "SS":
			c.since = i
		case "Client":
			c.client = i
		case "VHost":
			c.host = i
		case "Request":
			c.request = i
		}
	}
	if c.mode < 0 || c.since < 0 || c.client < 0 || c.host < 0 || c.request < 0 {
		return c, nil
	}
	rest, _, _ = bytes.Cut(rest, []byte("</table>"))
	return c, rest
}

// apacheMaxRequest is the size of worker_score.request (scoreboard.h), with the
// final zero byte.
const apacheMaxRequest = 64

// row reads a row of a process that answers a request, mode W, and not ours.
func (s Scoreboard) row(c columns, row []byte) (pid int, r Request, ok bool) {
	if !bytes.Contains(row, []byte("<b>W</b>")) {
		return 0, Request{}, false
	}
	var cells [24][]byte
	n := 0
	for n < len(cells) {
		_, rest, found := bytes.Cut(row, []byte("<td"))
		if !found {
			break
		}
		_, rest, _ = bytes.Cut(rest, []byte(">")) // of <td nowrap>
		cells[n], row, found = bytes.Cut(rest, []byte("</td>"))
		if !found {
			break
		}
		n++
	}
	if n <= max(c.mode, c.since, c.client, c.host, c.request) || string(bytes.TrimSpace(cells[c.mode])) != "<b>W</b>" {
		return 0, Request{}, false
	}
	cell := func(i int) string { return html.UnescapeString(string(bytes.TrimSpace(cells[i]))) }
	pid, err := strconv.Atoi(cell(c.pid))
	since, errSince := strconv.ParseUint(cell(c.since), 10, 31)
	if err != nil || pid <= 0 || errSince != nil {
		return 0, Request{}, false
	}
	// Whole seconds, rounded down.
	elapsed := time.Duration(since) * time.Second
	r = Request{Client: cell(c.client), Earliest: s.answer.asked.Add(-elapsed - time.Second), Latest: s.answer.gotten.Add(-elapsed)}
	// "NAME:PORT", cut to 31 bytes (worker_score.vhost): with its colon the name
	// is whole.
	if host, _, found := strings.Cut(cell(c.host), ":"); found {
		r.Host = host
	}
	line := cell(c.request)
	method, uri, found := strings.Cut(line, " ")
	if !found || uri == "" || strings.HasPrefix(line, "NULL") {
		return pid, r, true
	}
	r.Method, r.URI = method, uri
	if at := strings.LastIndex(uri, " HTTP/"); at > 0 {
		r.URI = uri[:at]
	} else if len(line) >= apacheMaxRequest-1 {
		r.URI = uri + "…"
	}
	return pid, r, r.URI != s.answer.own
}
