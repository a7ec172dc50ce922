package daemon

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Users of these tests.
const hasty, patient = 65531, 65532

// asker is a process of another user that asks, and then lives on as the real
// sendmail does. It asks once more for each line that it is sent.
type asker struct {
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines chan string // an answer each
}

// playAsker is such a process.
func playAsker(socket string) {
	in := bufio.NewScanner(os.Stdin)
	for {
		reply, err := ask(socket, "Subject: s\n\nx\n", "sendmail", "a@x")
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Printf("verdict %d %s %s\n", reply.Verdict, reply.Code, reply.Text)
		if !in.Scan() {
			return
		}
	}
}

const passes = "verdict 1  "

func (r *running) asker(t *testing.T, uid uint32) *asker {
	t.Helper()
	for dir := filepath.Dir(r.socket); dir != "/tmp" && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	exe, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer exe.Close()
	a := &asker{cmd: exec.Command("/proc/self/fd/3"), lines: make(chan string, 8)}
	a.cmd.ExtraFiles = []*os.File{exe}
	a.cmd.Env = []string{"TEST_AS=asker", "TEST_SOCKET=" + r.socket}
	a.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	if a.in, err = a.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := a.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := a.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.kill() })
	go func() {
		defer close(a.lines)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			a.lines <- lines.Text()
		}
	}()
	return a
}

// kill may be called twice.
func (a *asker) kill() {
	a.in.Close()
	a.cmd.Process.Kill()
	a.cmd.Wait()
}

func (a *asker) expect(t *testing.T, want string) {
	t.Helper()
	select {
	case got := <-a.lines:
		if !strings.HasPrefix(got, want) {
			t.Fatalf("answer %q, want %q", got, want)
		}
	case <-time.After(time.Minute):
		t.Fatal("no answer within a minute")
	}
}

// answered returns the first of these that has an answer.
func answered(t *testing.T, askers []*asker) (which int) {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); runtime.Gosched() {
		if i := slices.IndexFunc(askers, func(a *asker) bool { return len(a.lines) > 0 }); i >= 0 {
			return i
		}
	}
	t.Fatal("no answer within a minute")
	return 0
}

// setTurns sets the bounds of turns, before there are any.
func (r *running) setTurns(atOnce int, most time.Duration) {
	r.turns.mu.Lock()
	defer r.turns.mu.Unlock()
	r.turns.atOnce, r.turns.most = atOnce, most
}

// await waits until so many calls are there, and so many of them wait.
func (r *running) await(t *testing.T, calls, waiting int) {
	t.Helper()
	var c, w int
	for end := time.Now().Add(time.Minute); time.Now().Before(end); runtime.Gosched() {
		if c, w = r.turns.count(); c == calls && w == waiting {
			return
		}
	}
	t.Fatalf("%d calls, of which %d wait; want %d and %d", c, w, calls, waiting)
}

// TestTurns: of one user two are let pass and the others wait until one of these
// processes has ended, while another user's pass.
func TestTurns(t *testing.T) {
	r := start(t, nil)
	r.setTurns(2, time.Hour)
	var askers []*asker
	for range 6 {
		askers = append(askers, r.asker(t, hasty))
	}
	r.await(t, 4, 4)
	for range 3 {
		other := r.asker(t, patient)
		other.expect(t, passes)
		other.kill()
	}
	if n := r.count(t, "decision = 1"); n != 2+3 {
		t.Fatalf("%d rows, want 2 of the one and 3 of the other user", n)
	}
	for len(askers) > 0 {
		i := answered(t, askers)
		askers[i].expect(t, passes)
		askers[i].kill()
		askers = slices.Delete(askers, i, i+1)
	}
	if n := r.count(t, "decision = 1"); n != 6+3 {
		t.Errorf("%d rows", n)
	}
	r.await(t, 0, 0)
}

// TestKilledInLine: of who is killed before his turn nothing is sent, so nothing is
// counted, and the next has the turn.
func TestKilledInLine(t *testing.T) {
	r := start(t, nil)
	r.setTurns(1, time.Hour)
	first := r.asker(t, hasty)
	first.expect(t, passes)
	killed := r.asker(t, hasty)
	r.await(t, 1, 1)
	next := r.asker(t, hasty)
	r.await(t, 2, 2)
	killed.kill()
	first.kill()
	next.expect(t, passes)
	if n := r.count(t, "true"); n != 2 {
		t.Errorf("%d rows", n)
	}
}

// TestCallsAgain: a process that asks again, as an SMTP dialogue does, needs no second
// turn, and has none before those that wait.
func TestCallsAgain(t *testing.T) {
	r := start(t, nil)
	r.setTurns(1, time.Hour)
	dialogue := r.asker(t, hasty)
	dialogue.expect(t, passes)
	for range 3 {
		fmt.Fprintln(dialogue.in)
		dialogue.expect(t, passes)
	}
	other := r.asker(t, hasty)
	r.await(t, 1, 1)
	fmt.Fprintln(dialogue.in)
	other.expect(t, passes)
	r.await(t, 1, 1)
	other.kill()
	dialogue.expect(t, passes)
}

// TestLongestTurn: a process that does not end keeps nobody waiting for ever.
func TestLongestTurn(t *testing.T) {
	r := start(t, nil)
	r.setTurns(1, time.Millisecond)
	for range 3 {
		r.asker(t, hasty).expect(t, passes)
	}
}

// TestStopInLine: who waits when the daemon stops is answered first.
func TestStopInLine(t *testing.T) {
	r := start(t, nil)
	r.setTurns(1, time.Hour)
	r.asker(t, hasty).expect(t, passes)
	waiting := []*asker{r.asker(t, hasty), r.asker(t, hasty)}
	r.await(t, 2, 2)
	r.stop()
	for _, a := range waiting {
		a.expect(t, passes)
	}
}

// line is a number of calls that enter turns, each of which says what became of it.
type line struct {
	*turns
	b bounds
}

type entered struct {
	own    *turn
	why    string
	answer chan entered
}

func newLine(atOnce int, b bounds) *line {
	l := &line{&turns{}, b}
	l.init()
	l.atOnce, l.most = atOnce, time.Hour
	return l
}

// enter lets a call enter, and waits until it has its answer or its place in line.
func (l *line) enter(uid uint32) *entered {
	e := &entered{answer: make(chan entered, 1)}
	_, before := l.count()
	go func() {
		own, _, why := l.turns.enter(uid, 0, l.b)
		e.answer <- entered{own: own, why: why}
	}()
	for len(e.answer) == 0 {
		if _, waiting := l.count(); waiting > before {
			break
		}
		runtime.Gosched()
	}
	return e
}

// become waits for the answer of a call.
func (e *entered) become(t *testing.T, want string) *turn {
	t.Helper()
	got := <-e.answer
	if got.why != want {
		t.Fatalf("%q, want %q", got.why, want)
	}
	return got.own
}

func TestBoundsOfTurns(t *testing.T) {
	const all = "more than 6 of all users"
	l := newLine(1, bounds{perUser: 100, all: 6, patience: time.Hour})
	first := l.enter(hasty).become(t, "")
	second, third := l.enter(hasty), l.enter(hasty)
	l.enter(hasty).become(t, "more than 3") // half of all
	l.enter(0).become(t, "")
	l.enter(0).become(t, "") // root does not wait
	l.enter(0).become(t, "")
	l.enter(patient).become(t, "") // full: another goes for it
	third.become(t, all)
	l.enter(patient).become(t, all) // he would have as many as the one with the most
	first.leave()
	second.become(t, "").leave()
	if calls, waiting := l.count(); calls != 4 || waiting != 0 || l.byUID[hasty] != nil {
		t.Errorf("%d calls, %d wait, %+v", calls, waiting, l.byUID)
	}
}

// TestReleased: calls that the mail server has leave room for others, and their user has no
// turn more for it.
func TestReleased(t *testing.T) {
	l := newLine(1, bounds{perUser: 100, all: 2, patience: time.Hour})
	sending := l.enter(hasty).become(t, "")
	sending.release()
	waits := l.enter(hasty)
	l.enter(patient).become(t, "").leave()
	if calls, waiting := l.count(); calls != 1 || waiting != 1 {
		t.Errorf("%d calls, %d wait", calls, waiting)
	}
	sending.leave()
	waits.become(t, "").release()
	sending.leave()
	if calls, _ := l.count(); calls != 0 {
		t.Errorf("%d calls", calls)
	}
}

func TestPatience(t *testing.T) {
	l := newLine(1, bounds{perUser: 100, all: 1000, patience: time.Millisecond})
	first := l.enter(hasty).become(t, "")
	l.enter(hasty).become(t, "this one had no turn in 1ms")
	first.leave()
	l.enter(hasty).become(t, "").leave()
	if len(l.byUID) != 0 {
		t.Errorf("%+v", l.byUID)
	}
}

// BenchmarkTurn is what a call pays that is alone.
func BenchmarkTurn(b *testing.B) {
	l := newLine(4, bounds{perUser: 100, all: 1000, patience: time.Hour})
	for b.Loop() {
		own, _, _ := l.turns.enter(hasty, 1, l.b)
		own.leave()
	}
}
