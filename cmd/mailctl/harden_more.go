package main

import (
	"context"
	"errors"
	"io"
	"path/filepath"
	"strings"
)

// planNetworkDoor plans what mailctl setup network does. One that was there before
// mailctl harden stays when that is taken out.
func (a *app) planNetworkDoor(ctx context.Context, h hardenPlan) (*hardenStep, error) {
	s := &hardenStep{Name: "network door"}
	quiet := &app{stdout: io.Discard, stderr: io.Discard, configPath: a.configPath, config: a.config}
	if h.remove {
		if h.record.Network {
			s.Show = "mailctl setup network --remove\n"
		}
		s.change = func(ctx context.Context) error {
			if err := quiet.removeNetwork(ctx, false); err != nil {
				return err
			}
			h.record.Network = false
			return h.record.write()
		}
		return s, nil
	}
	cannot := func(err error) (*hardenStep, error) {
		s.Cannot = err.Error()
		if f := new(failure); errors.As(err, &f) && f.hint != "" {
			s.Cannot += " (" + f.hint + ")"
		}
		return s, nil
	}
	if err := needNft(); err != nil {
		return cannot(err)
	}
	p, err := a.planNetwork(ctx, &networkOptions{})
	if err != nil {
		return cannot(err)
	}
	if err := nft(ctx, p.rules.text(), "-c", "-f", "-"); err != nil {
		return cannot(err)
	}
	state, err := readNetworkState(ctx)
	if err != nil {
		return cannot(err)
	}
	if !p.file.changes() && state.is(p.rules) && isEnabled(ctx, networkUnit) && isActive(ctx, networkUnit) {
		return s, nil
	}
	s.Show, s.Notes = p.file.diff(), p.notes
	if s.Show == "" {
		s.Show = "systemctl enable --now " + networkUnit + "\n"
	}
	s.change = func(ctx context.Context) error {
		first := p.file.before == nil && !h.record.Network
		if first {
			h.record.Network = true
			if err := h.record.write(); err != nil {
				return err
			}
		}
		_, err := p.change(ctx)
		if err != nil && first {
			h.record.Network = false
			err = errors.Join(err, h.record.write())
		}
		return err
	}
	return s, nil
}

// planForwards plans what mailctl setup postfix --forwards does, where there is a Postfix
// that can. What was set up before mailctl harden stays when that is taken out.
func (a *app) planForwards(ctx context.Context, h hardenPlan) (*hardenStep, error) {
	if h.mta.profile != "postfix" && (!h.remove || h.record.Forwards == "") {
		return nil, nil
	}
	s := &hardenStep{Name: "what is sent on"}
	o, before, err := a.forwardsOptions(ctx, h)
	if err != nil {
		if h.remove {
			return nil, err
		}
		s.Notes = []string{err.Error()}
		return s, nil
	}
	if o == nil {
		return s, nil
	}
	p, err := planPostfix(ctx, a.config, a.configPath, o)
	if err != nil {
		var cannot *failure
		if h.remove && h.mta.profile != "postfix" { // the rest is not kept waiting for it
			s.Notes = []string{"what mailctl setup postfix wrote stays: " + err.Error() + "; then mailctl harden --remove again"}
			return s, nil
		}
		if h.remove || !errors.As(err, &cannot) {
			return nil, err
		}
		s.Notes = []string{"it stays uncounted: " + err.Error()}
		return s, nil
	}
	s.Show = showEdits(p.edits())
	cutShort := wasCutShort(h.lock.Name(), "postfix")
	switch {
	case s.Show != "":
	case cutShort:
		s.Show = "postfix reload: an earlier run was cut short\n"
	case h.remove || p.unitsWrong(ctx): // or only the record says that it is ours
		s.Show = "units of systemd\n"
	}
	switch {
	case !h.remove:
		s.Notes = p.notes
	case p.gone:
		s.Notes = []string{"there is no Postfix here any more: all of mailctl setup postfix is taken out of its files"}
	}
	if p.hadTransport { // it was there, and stays
		before = ""
	}
	s.change = func(ctx context.Context) error {
		// main.cf is another one by now.
		p, err := planPostfix(ctx, a.config, a.configPath, o)
		if err != nil {
			return err
		}
		p.cutShort = cutShort
		end, err := begin(ctx, h.lock, "postfix")
		if err != nil {
			return err
		}
		defer end()
		first := !h.remove && h.record.Forwards == "" && before != ""
		if first {
			h.record.Forwards = before
			if err := h.record.write(); err != nil {
				return err
			}
		}
		if err := p.change(ctx); err != nil {
			if first {
				h.record.Forwards = ""
				err = errors.Join(err, h.record.write())
			}
			return err
		}
		if h.remove {
			h.record.Forwards = ""
			return h.record.write()
		}
		return nil
	}
	return s, nil
}

// forwardsOptions are those of setup postfix, nil if there is nothing to do; before is
// how Postfix is now.
func (a *app) forwardsOptions(ctx context.Context, h hardenPlan) (o *postfixOptions, before string, err error) {
	yes, no := true, false
	if h.remove {
		switch {
		case h.record.Forwards == "":
			return nil, "", nil
		case h.record.Forwards == "none" || !hasPostfix(): // one that is gone asks nothing
			return &postfixOptions{remove: true}, "", nil
		}
		return &postfixOptions{forwards: &no}, "", nil
	}
	if !hasPostfix() {
		return nil, "", err
	}
	out, err := postconf(ctx, "config_directory")
	if err != nil {
		return nil, "", err
	}
	main, err := readEdit(filepath.Join(out[0], "main.cf"))
	if err != nil {
		return nil, "", err
	}
	before = "plain"
	if !strings.Contains(string(main.before), mailquotaPolicy) {
		before = "none"
	}
	return &postfixOptions{forwards: &yes}, before, nil
}
