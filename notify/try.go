package notify

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"
)

// Result is what became of one test.
type Result struct {
	Channel string `json:"channel"`
	Target  string `json:"target"`
	OK      bool   `json:"ok"`
	Error   string `json:"error,omitempty"`
}

// Try sends a test by each channel that is configured, or by one. That to
// customers goes to the administrator, so that he sees what they would get. It
// says what is wrong with the templates as well.
func (d *Deliverer) Try(ctx context.Context, only string) ([]Result, error) {
	var results []Result
	recipients := d.administrators()
	if d.Config.NotifyCustomers || only == Customer {
		for _, address := range d.Config.NotifyAdmin {
			recipients = append(recipients, recipient{Customer, address})
		}
	}
	now := time.Now()
	for i, r := range recipients {
		if only != "" && r.channel != only {
			continue
		}
		err := d.send(ctx, r.channel, r.target, d.sample(i, now))
		result := Result{Channel: r.channel, Target: r.target, OK: err == nil}
		if err != nil {
			result.Error = printable(err.Error())
		}
		results = append(results, result)
	}
	if len(results) == 0 {
		return nil, errors.New("nobody is to be told of anything")
	}
	return append(results, d.tryTemplates()...), nil
}

// tryTemplates returns the templates that are broken.
func (d *Deliverer) tryTemplates() (results []Result) {
	for _, name := range Templates {
		told := d.sample(0, time.Now())
		if name == "digest.txt" {
			told.Event, told.Digest = nil, sampleSummary(told)
		}
		if _, _, err := own(d.Config.NotifyTemplates, name, told); err != nil && !errors.Is(err, fs.ErrNotExist) {
			results = append(results, Result{Channel: "template", Target: name, Error: printable(err.Error())})
		}
	}
	return results
}

// sample is told by tests.
func (d *Deliverer) sample(number int, at time.Time) *Told {
	free := at.Add(time.Hour)
	script := "/home/alice/www/contact.php"
	return &Told{
		ID: fmt.Sprintf("test-%d.%d", number, at.UnixNano()), Kind: Test, Host: d.Config.Host, Time: at,
		Event: &Event{
			Object: "domain:alice.example", Subscription: "alice", Plan: "default", Limit: "messages/hour", Max: 100, Used: 100, Since: at, FreeAt: &free,
			Message: &Message{Time: at, Host: d.Config.Host, User: "alice", Program: "php-fpm", Script: script, Site: "alice.example", Client: "192.0.2.1",
				Proof:  map[string]string{"program": "kernel", "script": "system", "site": "system", "client": "system"},
				Sender: "alice@" + d.Config.Host, Recipients: 1, Subject: "Test", To: []string{"user@example.com"}},
			Above:    []Level{{"subscription:alice", "messages/day", 2000, 150}},
			Commands: []string{"mailctl why domain:alice.example", "mailctl block add script:" + script},
		},
	}
}

func sampleSummary(told *Told) *Summary {
	return &Summary{
		Since: told.Time.Add(-time.Hour), Until: told.Time, Attempts: 12, Groups: 1,
		Refused: []Attempt{{Object: "domain:alice.example", Limit: "messages/hour", Messages: 12, User: "alice", Program: "php-fpm", First: told.Time, Last: told.Time}},
		Warned:  []Warning{{Object: "user:alice", Limit: "messages/day", Max: 100, Used: 80, At: told.Time}},
		Clear:   []Cleared{{Object: "user:bob", What: "refused", Since: told.Time, Last: told.Time}},
	}
}
