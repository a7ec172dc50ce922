package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"sendmail-wrapper/config"
	"sendmail-wrapper/quota"
	"sendmail-wrapper/report"
	"sendmail-wrapper/wire"
)

func (a *app) usage() *cobra.Command {
	return &cobra.Command{
		Use: "usage [OBJECT…]", Short: "show what was sent and what is left",
		Long: "usage shows, for each limit, what was sent in the last hour or day, and what is left.\n" +
			"Without OBJECT: root sees all that sent, another user himself.",
		Example:           "  mailctl usage\n  mailctl usage subscription:acme domain:shop.example\n  mailctl usage user:alice --json",
		ValidArgsFunction: offerObjects(charged),
		RunE: func(c *cobra.Command, args []string) error {
			var objects []quota.Object
			for _, arg := range args {
				o, err := object(arg)
				if err != nil {
					return err
				}
				if o.Class == quota.Plan {
					return &failure{exUsage, fmt.Sprintf("%s is charged nothing: a plan holds the defaults of its subscriptions", o), "mailctl limit show " + o.String()}
				}
				objects = append(objects, o)
			}
			list, err := a.readUsage(c.Context(), objects)
			if err != nil {
				return err
			}
			if a.json && len(args) == 1 {
				return a.printJSON(usageJSON(list)[0])
			}
			if a.json {
				return a.printJSON(usageJSON(list))
			}
			a.printUsage(list)
			return nil
		},
	}
}

// objectUsage is an object of usage --json.
type objectUsage struct {
	Object string                `json:"object"`
	Limits map[string]limitUsage `json:"limits"`
}

type limitUsage struct {
	quota.LimitUsage
	From *string `json:"from"` // class of the object on which the limit is set; null: nobody set it
}

func usageJSON(list []quota.ObjectUsage) []objectUsage {
	objects := []objectUsage{}
	for _, u := range list {
		o := objectUsage{u.Object, map[string]limitUsage{}}
		for name, l := range u.Limits {
			o.Limits[name] = limitUsage{l, setOn(l.From)}
		}
		objects = append(objects, o)
	}
	return objects
}

// setOn is where a limit is set; nil: nowhere.
func setOn(from string) *string {
	if from == "" {
		return nil
	}
	return &from
}

func (a *app) readUsage(ctx context.Context, objects []quota.Object) ([]quota.ObjectUsage, error) {
	if os.Geteuid() != 0 {
		return a.ownUsage(objects)
	}
	if err := a.connect(ctx); err != nil {
		return nil, err
	}
	if len(objects) == 0 {
		return a.store.UsageOfAll(ctx)
	}
	return a.store.Usage(ctx, objects)
}

// askTimeout bounds the wait for mailquotad, which is asked by every user.
const askTimeout = 30 * time.Second

// ownUsage asks mailquotad, which tells a user about himself only: customers
// have no way to the database.
func (a *app) ownUsage(objects []quota.Object) ([]quota.ObjectUsage, error) {
	reply, err := a.ask(&wire.Request{Op: wire.OpUsage})
	if err != nil {
		return nil, err
	}
	body := reply.Body
	var own []quota.ObjectUsage
	if err := json.Unmarshal(body, &own); err != nil {
		return nil, fmt.Errorf("read the answer of mailquotad: %w", err)
	}
	if len(objects) == 0 {
		return own, nil
	}
	var list []quota.ObjectUsage
	for _, o := range objects {
		found := false
		for _, u := range own {
			if u.Object == o.String() {
				list, found = append(list, u), true
			}
		}
		if !found {
			return nil, &failure{exNoPerm, fmt.Sprintf("%s is not yours, or has sent nothing yet", o), "mailctl usage"}
		}
	}
	return list, nil
}

// ask asks mailquotad at its socket. Where the configuration cannot be read, as
// by an ordinary user, the socket is the usual one.
func (a *app) ask(request *wire.Request) (*wire.Reply, error) {
	socket := ""
	var denied *failure
	if err := a.loadConfig(); err == nil {
		socket = a.config.Socket
	} else if errors.As(err, &denied) && denied.exit == exNoPerm {
		socket = config.Default().Socket
	} else {
		return nil, err
	}
	reply, err := wire.Ask(socket, request, nil, askTimeout)
	if err != nil {
		return nil, err
	}
	switch reply.Verdict {
	case wire.VerdictAccept:
		return reply, nil
	case wire.VerdictRefuse:
		return nil, &failure{int(reply.Exit), reply.Text, "mailctl usage shows what is yours"}
	default:
		return nil, &failure{exUnavailable, reply.Text, "systemctl status mailquotad"}
	}
}

func (a *app) printUsage(list []quota.ObjectUsage) {
	if len(list) == 0 {
		fmt.Fprintln(a.stderr, "nothing was sent yet")
		return
	}
	var rows [][]any
	for _, u := range list {
		name := u.Object
		for l := range quota.Limit(quota.NumLimits) {
			v := u.Limits[l.String()]
			if v.Limit == nil && (v.Used == 0 || l == quota.RecipientsMessage) {
				continue
			}
			left := "unlimited"
			if v.Left != nil {
				left = fmt.Sprint(*v.Left)
			}
			rows = append(rows, []any{name, l.String(), v.Used, number(v.Limit), left, v.FreeAt, v.From})
			name = " " // once
		}
		if name != " " {
			rows = append(rows, []any{name, "no limit", int64(0), "unlimited", "unlimited", nil, ""})
		}
	}
	report.Table(a.stdout, []string{"object", "limit", "used", "of", "left", "free again", "set on"}, rows)
}
