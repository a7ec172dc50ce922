package notify

import (
	"strings"
	"testing"
	"time"
	_ "time/tzdata" // a new machine has none

	"sendmail-wrapper/quota"
)

func TestPeriodEnd(t *testing.T) {
	vienna, err := time.LoadLocation("Europe/Vienna")
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 11, 24, 14, 17, 33, 5, time.UTC)
	for every, want := range map[time.Duration]string{5 * time.Minute: "14:15", 15 * time.Minute: "14:15", time.Hour: "14:00", 4 * time.Hour: "12:00", 8 * time.Hour: "08:00", 24 * time.Hour: "00:00"} {
		got := periodEnd(at, every)
		if got.Format("2006-01-02 15:04") != "2026-11-24 "+want || got.Second() != 0 {
			t.Errorf("%v: %v, want %s", every, got, want)
		}
		if local := periodEnd(at.In(vienna), every); !local.Equal(got) {
			t.Errorf("%v: %v in another time zone, %v", every, local, got)
		}
	}
	if at := time.Date(2026, 11, 24, 0, 0, 0, 0, time.UTC); !periodEnd(at, time.Hour).Equal(at) {
		t.Errorf("at midnight: %v", periodEnd(at, time.Hour))
	}
}

// TestPeriodsOfOddDays: on days of 23 and 25 hours periods follow each other
// without gap or overlap.
func TestPeriodsOfOddDays(t *testing.T) {
	vienna, err := time.LoadLocation("Europe/Vienna")
	if err != nil {
		t.Fatal(err)
	}
	for _, day := range []time.Time{time.Date(2026, 3, 28, 12, 0, 0, 0, vienna), time.Date(2026, 10, 24, 12, 0, 0, 0, vienna)} {
		for _, every := range []time.Duration{5 * time.Minute, time.Hour, 6 * time.Hour, 12 * time.Hour, 24 * time.Hour} {
			last := periodEnd(day, every)
			for now := day; now.Before(day.Add(72 * time.Hour)); now = now.Add(5 * time.Minute) {
				end := periodEnd(now, every)
				if step := end.Sub(last); end.After(now) || step != 0 && step != every {
					t.Fatalf("%v: at %v ends %v, after %v", every, now, end, last)
				}
				last = end
			}
		}
	}
}

// TestDigest: a table of what happened, an all-clear, once; nothing where nothing
// happened.
func TestDigest(t *testing.T) {
	w := newWorld(t)
	w.deliverAll()
	if got := w.text(`SELECT count(*)::text FROM notice`); got != "0" {
		t.Fatalf("%s notices of nothing", got)
	}
	end := periodEnd(time.Now().Add(-settle), time.Hour)
	at := end.Add(-30 * time.Minute)
	w.exec(`SELECT make_partitions($1::date, 1)`, at.UTC())
	cron := spam
	cron.Origin.Crontab.Value = "/var/spool/cron/crontabs/alice:3 * * * * * mass\x1b.sh"
	for range 3 {
		w.refusal("subscription:alice", quota.EventRefused, spam)
	}
	w.refusal("domain:alice.example", quota.EventObserved, cron)
	o, id := w.object("user:alice")
	w.record(quota.Event{Kind: quota.EventWarned, Object: o, ID: id, Limit: quota.MessagesDay, Max: 100, Used: 80, At: at})
	w.exec(`UPDATE messages SET at = $1`, at)
	w.exec(`UPDATE event SET told_at = now(), opened_at = $1, last_at = $1, closed_at = $1`, at)
	w.record(quota.Event{Kind: quota.EventRefused, Object: quota.Object{Class: quota.Subscription, Name: "alice"}, At: time.Now()})
	w.exec(`UPDATE event SET told_at = now()`)
	for range 2 {
		w.digested = time.Time{} // as after a restart
		if err := w.pass(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	w.Config.NotifyDigest = 0 // what waits is told as it was made
	w.deliverAll()
	mail := w.mails()["root"]
	for _, want := range []string{
		"Subject: [mailquota] 4 messages refused or past a limit, ", "subscription:alice messages/hour: 3 refused, not over yet\n    script /home/alice/www/x.php, user alice\n",
		"domain:alice.example messages/hour: 1 let through (observed), over\n    cron job /var/spool/cron/crontabs/alice:3 * * * * * mass\uFFFD.sh, user alice\n",
		"Near a limit\n  user:alice: 80 of 100 messages/day, 20", "Clear again\n  user:alice: warned since 20", "mailctl report attempts --since 20",
	} {
		if !strings.Contains(mail, want) {
			t.Errorf("no %q in:\n%s", want, mail)
		}
	}
	if n := strings.Count(mail, "\nSubject: "); n != 1 {
		t.Errorf("%d digests", n)
	}
	if n, err := List(t.Context(), w.Pool, "host1", 10); err != nil || len(n) != 1 || n[0].Kind != Digest || n[0].State != Sent {
		t.Errorf("%+v, %v", n, err)
	}
	w.exec(`DELETE FROM notice`)
	w.digested = time.Time{}
	w.deliverAll()
	if got := w.text(`SELECT count(*)::text FROM notice`); got != "0" {
		t.Errorf("%s notices with digests off", got)
	}
}
