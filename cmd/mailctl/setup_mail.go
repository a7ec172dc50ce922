package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	"sendmail-wrapper/report"
)

func (s *setupRun) lookMail(context.Context) (stepReport, error) {
	if to := s.options.testMail; to == "" || to[0] == '-' || strings.ContainsFunc(to, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		return stepReport{}, &failure{exUsage, fmt.Sprintf("--test-mail %q is no address", to), ""}
	}
	return stepReport{State: stepPlanned, Text: fmt.Sprintf("send a test mail to %s by /usr/sbin/sendmail, as user %s", s.options.testMail, daemonUser)}, nil
}

// sendMail sends as mailquota, not as root: so the call has to be let in by the socket
// and by the mail server as a customer's has, which root never needs. A user of the
// service is counted and never refused, and brings no subscription of his own, as
// nobody would.
func (s *setupRun) sendMail(ctx context.Context) (stepReport, error) {
	a := s.fresh()
	defer a.close()
	if err := a.connect(ctx); err != nil {
		return stepReport{}, err
	}
	began := time.Now()
	id := "setup." + rand.Text() + "@" + a.config.Host
	if err := submit(ctx, s.options.testMail, a.config.NotifyFrom, id); err != nil {
		return stepReport{}, err
	}
	var found []*report.Message
	var err error
	here := func() bool {
		found, err = report.FindByMessageID(ctx, a.pool, []string{"<" + id + ">"}, report.Filter{Since: began.Add(-time.Hour)}, func(time.Time) {})
		return err == nil && len(found) > 0
	}
	if !await(ctx, here) {
		return stepReport{}, s.whyNotCounted(ctx, err)
	}
	s.report.Message = found[0].ID.String()
	return stepReport{Text: fmt.Sprintf("a mail to %s was counted, and the mail server took it: mailctl trace %s", s.options.testMail, s.report.Message)}, nil
}

// submit hands a mail to sendmail, as whoever calls it does.
func submit(ctx context.Context, to, from, id string) error {
	message := fmt.Sprintf("From: %s\nTo: %s\nSubject: mailctl setup: a test mail\nMessage-ID: <%s>\nAuto-Submitted: auto-generated\n\n"+
		"mailctl setup has sent this mail by /usr/sbin/sendmail. It was counted.\n", from, to, id)
	if said, err := commandAs(ctx, daemonUser, message, "/usr/sbin/sendmail", "-i", to); err != nil {
		return &failure{exWrong, fmt.Sprintf("/usr/sbin/sendmail does not take a mail to %s of user %s: %v: %s", to, daemonUser, err, said),
			"what does the mail server's log say? journalctl -n 50"}
	}
	return nil
}

// whyNotCounted: the mail server took the mail, and there is no row of it.
func (s *setupRun) whyNotCounted(ctx context.Context, err error) error {
	const sent = "the mail server took the test mail, and it was not counted: "
	if !isWrapper("/usr/sbin/sendmail") {
		return &failure{exWrong, sent + "/usr/sbin/sendmail is not sendmail-wrapper", namesProgram + " take"}
	}
	d, errDaemon := s.askDaemon()
	switch {
	case errDaemon != nil:
		return &failure{exUnavailable, sent + errDaemon.Error(), "systemctl status mailquotad.socket mailquotad"}
	case len(d.problems()) > 0:
		return &failure{exUnavailable, sent + strings.Join(d.problems(), "; "), "journalctl -u mailquotad"}
	case err != nil:
		return fmt.Errorf("look for the test mail: %w", err)
	case ctx.Err() != nil:
		return errors.New("interrupted while it waited for the test mail")
	}
	return &failure{exWrong, sent + "mailquotad was not asked", "journalctl -t sendmail-wrapper says why: is socket in wrapper.conf that of mailquotad.conf?"}
}
