package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/google/uuid"

	"sendmail-wrapper/origin"
	"sendmail-wrapper/quota"
	"sendmail-wrapper/sendmail"
	"sendmail-wrapper/submit"
	"sendmail-wrapper/wire"
)

// submitUser is whom mailquota-submit runs as.
const submitUser = "mailquota-submit"

// placePatience bounds the wait for a place in mailquota-submit.
const placePatience = time.Minute

// handOver is a message that mailquotad has sent once it is accepted: where hand-off says so,
// and whoever calls is not root, from whom each mail server takes mail. The caller's own
// process does not matter any more from then on; he may end it or stop it.
type handOver struct {
	profile *sendmail.Profile
	argv    []string      // of the real sendmail
	call    sendmail.Call // no more of it than what counts after the decision
}

// handOverOf prepares a message for it; nil where the caller's process sends it.
func (s *Server) handOverOf(peer *origin.Peer, request *wire.Request, profile *sendmail.Profile, call *sendmail.Call, envelope *sendmail.Envelope, env sendmail.Env) (*handOver, error) {
	if !request.HandOff || peer.UID == 0 {
		return nil, nil
	}
	if s.finder.IsOne(peer.UID, []string{submitUser}) { // it would ask and ask
		return nil, errors.New("real-sendmail of wrapper.conf is sendmail-wrapper itself")
	}
	login, fullName, known := s.finder.Login(peer.UID)
	from := sendmail.Submitter{Sender: login, FullName: fullName}
	switch {
	case envelope.SenderSet:
		from.Sender = envelope.Sender // of the message, where call has none
	case !known:
		return nil, fmt.Errorf("uid %d has no login name in /etc/passwd: say who sends, with -f ADDRESS", peer.UID)
	}
	argv, err := profile.HandOver(request.Argv, env, from)
	if err != nil {
		return nil, err
	}
	return &handOver{profile, argv, sendmail.Call{Gateway: call.Gateway, NoBounce: call.NoBounce}}, nil
}

// send has a message sent that was accepted, as accepted says, at a time (zero: it is not
// charged). The call gives up its slot: a slow mail server shall keep nobody from being
// decided about. What surely was not sent is given back.
func (s *Server) send(h *handOver, content *os.File, m *quota.Message, at time.Time, accepted *wire.Reply) *wire.Reply {
	r := &submit.Request{Owner: s.finder.Owner(m.Origin.UID), Profile: h.profile.Name, Trace: accepted.Trace, TraceAt: accepted.TraceAt}
	for _, word := range h.argv {
		r.Argv = append(r.Argv, []byte(word))
	}
	h.argv = nil // which may be long, and the wait as well
	began := time.Now()
	ctx, cancel := context.WithTimeout(s.patience, placePatience)
	defer cancel()
	result, err := submit.Send(ctx, s.config().SubmitSocket, r, content)
	var notRun *submit.NotRunError
	switch {
	case errors.As(err, &notRun):
		s.log().Error().Err(err).Str("id", accepted.ID).EmbedObject(senderOf(m)).Msg("the message was not handed to the mail server")
		s.giveBackNow(m, at)
		return h.refusal(accepted, "mail cannot be handed to the mail server now, so it is refused; try again later")
	case err != nil || result.Ended != "":
		why := err
		if err == nil {
			why = errors.New("the real sendmail " + result.Ended)
		}
		s.log().Error().Err(why).Str("id", accepted.ID).EmbedObject(senderOf(m)).Msg("nobody knows whether the mail server has taken the message: it stays charged")
		return h.refusal(accepted, "the mail server did not say whether it has taken the message: it may have been sent")
	}
	log := s.log().Debug()
	if result.Exit != 0 {
		log = s.log().Info()
	}
	log.Str("id", accepted.ID).EmbedObject(senderOf(m)).Int("exit", result.Exit).Bytes("stderr", result.Stderr[:min(len(result.Stderr), maxText)]).
		Dur("took", time.Since(began)).Msg("handed to the mail server")
	if h.profile.NothingQueued(&h.call, result.Exit) {
		s.giveBackNow(m, at)
	}
	return &wire.Reply{Verdict: wire.VerdictHanded, ID: accepted.ID, Exit: uint8(result.Exit), Stdout: result.Stdout, Stderr: result.Stderr}
}

func (h *handOver) refusal(accepted *wire.Reply, text string) *wire.Reply {
	r := &quota.Refusal{Reason: text}
	return &wire.Reply{Verdict: wire.VerdictRefuse, Exit: r.Exit(h.call.Gateway), Code: wire.CodeFault, ID: accepted.ID, Text: text}
}

// giveBackNow gives back what was not sent, before the caller hears of it; where that cannot
// be done now, later.
func (s *Server) giveBackNow(m *quota.Message, at time.Time) {
	if at.IsZero() || m.ID == uuid.Nil {
		return
	}
	c := charge{id: m.ID, at: at, of: senderOf(m), recipients: m.Recipients}
	began := time.Now()
	s.givingBack.Lock()
	defer s.givingBack.Unlock()
	// Who has waited for as long as the one before him may take has no hope.
	hopeless := s.database.queue.State().Trouble != "" || time.Since(began) >= time.Duration(s.config().DecisionTimeout)
	if hopeless || s.giveBackOne(context.Background(), &c) != nil {
		s.refusedByServer(c)
	}
}
