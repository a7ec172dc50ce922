package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"sendmail-wrapper/origin"
)

// fpmPlan says of each pool of all masters what is to become of it, since no two
// of them may have one socket: then PHP-FPM does not start.
func fpmPlan(ctx context.Context, masters []*fpmMaster) {
	taken := make(map[string]bool)
	found := make(map[*fpmMaster][]origin.Pool)
	for _, m := range masters {
		err := m.readVersion(ctx)
		if err == nil {
			found[m], err = origin.ReadPools(m.Config)
		}
		if err != nil {
			m.Error = err.Error()
		}
		for _, p := range found[m] {
			taken[p.Options["listen"]], taken[p.Options["pm.status_listen"]] = true, true
		}
	}
	for _, m := range masters {
		m.Pools = []*fpmPool{}
		for _, p := range found[m] {
			m.Pools = append(m.Pools, m.plan(&p, taken))
		}
	}
}

func (m *fpmMaster) plan(p *origin.Pool, taken map[string]bool) *fpmPool {
	f := &fpmPool{Name: p.Name, File: p.File, line: p.Line, path: p.Options["pm.status_path"] == ""}
	f.Socket = p.Options["pm.status_listen"]
	switch {
	case strings.HasPrefix(f.Socket, fpmDir+"/"):
		f.State = poolSet
	case f.Socket != "":
		f.State = poolOwn
	case m.old():
		f.State, f.Why = poolLeft, "PHP "+m.Version+" has no pm.status_listen, PHP 8.0 has"
	default:
		f.State, f.Why = poolLeft, closedMode(p.Options)
	}
	if f.State == poolSet || f.State == poolOwn {
		if m.PID == 0 || !strings.HasPrefix(f.Socket, "/") {
			return f
		}
		switch err := reachable(f.Socket); {
		case errors.Is(err, fs.ErrNotExist):
			f.Why = f.Socket + " is not there: reload PHP-FPM"
		case err != nil:
			f.Why = "mailquotad cannot reach its status: " + err.Error()
		}
		return f
	}
	if f.Why != "" {
		return f
	}
	// The version, since two masters often have pools of the same names; and where
	// two masters of one version do, a sum of the configuration's path.
	sum := fmt.Sprintf("%x", sha256.Sum256([]byte(m.Config)))[:8]
	for _, prefix := range []string{m.Version, m.Version + "-" + sum} {
		f.Socket = fpmDir + "/" + prefix + "-" + p.Name + ".sock"
		if !taken[f.Socket] {
			f.listen = fpmDir + "/" + prefix + "-$pool.sock"
			break
		}
	}
	switch {
	case f.listen == "":
		f.Why = f.Socket + " is another pool's already"
	case len(f.Socket) > 107 || strings.Contains(p.Name, "/"): // unix(7), sun_path
		f.Why = "its name makes no path of a socket"
	default:
		taken[f.Socket] = true
		f.State = poolNew
		return f
	}
	f.Socket = ""
	return f
}

// closedMode tells why mailquotad could not connect to a status socket of a pool
// with these options, "" if it can. FPM gives that socket owner, mode and access
// control list of the pool's own. The default list of our directory adds mailquota
// to it, and the group's bits of the mode are its mask (acl(5)); but listen.acl_*
// makes FPM compute the mask (fpm_unix.c), and it ignores the mode then.
func closedMode(options map[string]string) string {
	if options["listen.acl_users"] != "" || options["listen.acl_groups"] != "" {
		return ""
	}
	text := options["listen.mode"]
	if text == "" {
		return ""
	}
	mode, err := strconv.ParseUint(text, 8, 32)
	if err != nil || mode&0o060 != 0o060 {
		return "listen.mode = " + text + " shuts mailquotad out of the status, too: 0660 lets it in, and nobody else"
	}
	return ""
}
