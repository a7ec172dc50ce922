package report

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"sendmail-wrapper/quota"
)

// judge says in one line what holds for the next message.
func (s *Standing) judge() {
	s.CanSend, s.Verdict = true, ""
	if strings.HasPrefix(s.Object, "plan:") {
		s.Verdict = s.Object + " sends nothing itself: it holds the defaults of its subscriptions"
		return
	}
	if s.held(quota.Block, func(object string, e *Exception) {
		s.CanSend = false
		who := "is blocked"
		if object != s.Object {
			who = "cannot send: " + object + " above it is blocked"
		}
		s.Verdict = s.Object + " " + who + e.how()
	}) {
		return
	}
	if s.held(quota.Whitelist, func(object string, e *Exception) {
		s.Verdict = s.Object + " can send without limit: " + object + " is in the white list" + e.how()
	}) {
		return
	}
	from := ""
	if s.ModeFrom != "" {
		from = " of " + s.ModeFrom
	}
	if s.Mode == string(quota.Off) {
		s.Verdict = fmt.Sprintf("%s can send without limit: by mode off%s its mail is only counted", s.Object, from)
		return
	}
	s.weigh()
	if s.Mode == string(quota.Observe) {
		s.CanSend = true
		s.Verdict += fmt.Sprintf("; by mode observe%s nothing is refused", from)
	}
}

// held calls found with the first exception of a kind on the way up.
func (s *Standing) held(kind quota.ExceptionKind, found func(object string, e *Exception)) bool {
	look := func(object string, list []Exception) bool {
		i := slices.IndexFunc(list, func(e Exception) bool { return e.Kind == kind })
		if i >= 0 {
			found(object, &list[i])
		}
		return i >= 0
	}
	if look(s.Object, s.Exceptions) {
		return true
	}
	return slices.ContainsFunc(s.Above, func(a Above) bool { return look(a.Object, a.Exceptions) })
}

// how says since when, until when, by whom and why.
func (e *Exception) how() string {
	text := " since " + minute(time.Time(e.Since))
	if e.Until != nil {
		text += " until " + minute(time.Time(*e.Until))
	}
	if e.Actor != "" {
		text += " by " + e.Actor
	}
	if e.Why != "" {
		text += ": " + e.Why
	}
	return text
}

func minute(at time.Time) string { return at.UTC().Format("2006-01-02 15:04 UTC") }

// tight is the limit of an object that lets the least through.
type tight struct {
	limit   string // "": none has an end
	left    int64  // of its unit
	granted bool   // by an allowance
	set     *Standard
	until   *time.Time // of one that is full; nil: until somebody changes something
}

func (t *tight) full() bool { return t.limit != "" && t.left == 0 }

// tightest returns the limit of which the least is left, of several that are full
// the one that is free again last.
func tightest(limits map[string]Standard, g *quota.Grant) (t tight) {
	for l := range quota.Limit(quota.NumLimits) {
		v, ok := limits[l.String()]
		if !ok || v.Left == nil || l == quota.RecipientsMessage && *v.Left > 0 {
			continue
		}
		o := tight{limit: l.String(), left: *v.Left, set: &v}
		if g != nil && o.left == 0 && l != quota.RecipientsMessage {
			o.left, o.granted = max(g.Messages, g.Recipients), true
		}
		if o.left == 0 {
			o.until = v.FreeAt
		}
		if t.limit == "" || o.tighter(&t) {
			t = o
		}
	}
	return t
}

func (t *tight) tighter(than *tight) bool {
	switch {
	case t.left != than.left || t.left > 0:
		return t.left < than.left
	case than.until == nil: // never free is the tightest
		return false
	}
	return t.until == nil || t.until.After(*than.until)
}

// weigh looks for what is full, or will be first.
func (s *Standing) weigh() {
	least, above := tightest(s.Limits, s.Grants), ""
	for i := range s.Above {
		a := &s.Above[i]
		t := tightest(a.Limits, a.grants)
		if a.Full && t.limit == "" { // to a customer its limits are not shown
			t = tight{limit: "its limit", until: a.FullUntil}
		}
		if t.limit != "" && (least.limit == "" || t.tighter(&least)) {
			least, above = t, a.Object
		}
	}
	switch {
	case least.limit == "":
		s.Verdict = s.Object + " can send without limit"
		return
	case least.full():
		s.CanSend = false
		s.Verdict = s.Object + " cannot send: " + least.fullness(above)
		return
	}
	s.Verdict = s.Object + " can send " + least.more()
	switch {
	case least.granted:
		s.Verdict += ", by a one-off allowance"
	case above != "":
		s.Verdict += ": so much is left of " + above + " above it"
	}
}

// fullness says what is full, and until when.
func (t *tight) fullness(above string) string {
	what := t.limit
	switch {
	case above == "server":
		what = "above it the server"
	case above != "":
		what = "above it " + above
	}
	if t.set != nil && *t.set.Limit == 0 {
		return fmt.Sprintf("%s is closed: limit 0, set on %s", what, t.set.SetOn)
	}
	what += " is full"
	if t.until != nil {
		what += " until " + minute(*t.until)
	}
	return what
}

// more says how much is left: "12 more messages this hour".
func (t *tight) more() string {
	unit, window, _ := strings.Cut(t.limit, "/")
	if t.left == 1 {
		unit = strings.TrimSuffix(unit, "s")
	}
	preposition := ""
	if strings.HasPrefix(unit, "recipient") {
		preposition = "to "
	}
	if t.granted {
		return fmt.Sprintf("%s%d more", preposition, t.left)
	}
	return fmt.Sprintf("%s%d more %s this %s", preposition, t.left, unit, window)
}
