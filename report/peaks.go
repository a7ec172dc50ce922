package report

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"sendmail-wrapper/quota"
)

// windowed are the limits that have a window, in the order of Peak.
var windowed = [...]quota.Limit{quota.MessagesHour, quota.MessagesDay, quota.RecipientsHour, quota.RecipientsDay}

// Peak is the most that an object tried to send in any hour and day of a time, by
// quota.Limit.
type Peak [len(windowed)]int64

// An hour is 61 minutes, the last of which has just begun, and a day 97 quarters:
// the windows that package quota counts in. So what a peak is is just what a limit
// of that value would have let through.
const (
	hourMinutes, dayQuarters = 61, 97
	minutesPerQuarter        = 15
)

// sums are what was sent in slots of time, oldest first, and of those in the
// window their total.
type sums struct {
	slots                []sum
	messages, recipients int64
}

type sum struct{ n, messages, recipients int64 }

// add counts something in slot n, which is not before the last one, in a window
// of span slots.
func (s *sums) add(n, span, messages, recipients int64) {
	gone := 0
	for gone < len(s.slots) && s.slots[gone].n <= n-span {
		s.messages -= s.slots[gone].messages
		s.recipients -= s.slots[gone].recipients
		gone++
	}
	s.slots = s.slots[gone:]
	if last := len(s.slots) - 1; last < 0 || s.slots[last].n != n {
		s.slots = append(s.slots, sum{n: n})
	}
	last := &s.slots[len(s.slots)-1]
	last.messages += messages
	last.recipients += recipients
	s.messages += messages
	s.recipients += recipients
}

// sliding is one object on the way through time: its two windows, and the peak
// so far.
type sliding struct {
	hour, day sums
	peak      Peak
}

// add counts what was sent in a minute, which is not before the last one.
func (s *sliding) add(minute, messages, recipients int64) {
	s.hour.add(minute, hourMinutes, messages, recipients)
	s.day.add(minute/minutesPerQuarter, dayQuarters, messages, recipients)
	s.rise(s.hour.messages, s.hour.recipients)
}

// addHour counts the sum of an hour that begins with a minute. What was sent in
// any sliding hour is not known then, only that it was as much as this at least.
func (s *sliding) addHour(minute, messages, recipients int64) {
	s.day.add(minute/minutesPerQuarter, dayQuarters, messages, recipients)
	s.rise(messages, recipients)
}

func (s *sliding) rise(messages, recipients int64) {
	for i, now := range [...]int64{messages, s.day.messages, recipients, s.day.recipients} {
		s.peak[i] = max(s.peak[i], now)
	}
}

// Peaks are the peaks of all objects of a class that tried to send.
type Peaks struct {
	First time.Time // minute of the first message; zero: there is none
	Of    map[quota.ID]Peak
	Sums  bool // some of the time was read from sums of hours
}

// columnOf is where the rows of messages and sums have the object of a class.
var columnOf = map[quota.Class]string{
	quota.User: "user_id", quota.Mailbox: "mailbox_id", quota.Domain: "domain_id", quota.Subscription: "subscription_id",
}

// MeasurePeaks finds the peaks of the objects of a class since a time: of each
// message that was asked for, refused or not. It reads the rows once, day by day
// in order, some two seconds a million, and what is older than they are from the
// sums of hours. It calls progress before each day.
func MeasurePeaks(ctx context.Context, pool *pgxpool.Pool, class quota.Class, since time.Time, progress func(day time.Time)) (*Peaks, error) {
	column, ok := columnOf[class]
	if !ok {
		return nil, fmt.Errorf("measure peaks: class %s has none of its own", class)
	}
	list, err := days(ctx, pool, Filter{Since: since})
	if err != nil {
		return nil, err
	}
	found := &Peaks{Of: map[quota.ID]Peak{}}
	objects := map[quota.ID]*sliding{}
	read := func(sql string, add func(*sliding, int64, int64, int64), args ...any) error {
		rows, err := pool.Query(ctx, sql, args...)
		if err != nil {
			return fmt.Errorf("measure peaks: %w", err)
		}
		var at time.Time
		var id quota.ID
		var messages, recipients int64
		_, err = pgx.ForEachRow(rows, []any{&at, &id, &messages, &recipients}, func() error {
			if found.First.IsZero() {
				found.First = at
			}
			if objects[id] == nil {
				objects[id] = &sliding{}
			}
			add(objects[id], at.Unix()/60, messages, recipients)
			return nil
		})
		if err != nil {
			return fmt.Errorf("measure peaks: %w", err)
		}
		return nil
	}
	rowsSince := time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)
	if len(list) > 0 {
		rowsSince = list[0].Since.Truncate(time.Hour)
	}
	if since.Before(rowsSince) {
		progress(since)
		err := read(`SELECT at, `+column+`, sum(messages)::bigint, sum(recipients)::bigint FROM hourly
 WHERE at >= $1 AND at < $2 AND `+column+` <> 0 GROUP BY 1, 2 ORDER BY 1, 2`, (*sliding).addHour, since, rowsSince)
		if err != nil {
			return nil, err
		}
		found.Sums = len(objects) > 0
	}
	for _, day := range list {
		progress(day.Since)
		err := read(`SELECT date_bin('1 minute', m.at, '2000-01-01 00:00:00+00'), m.`+column+`, count(*), sum(m.recipients)::bigint FROM messages m
 WHERE m.at >= $1 AND m.at < $2 AND m.`+column+` IS NOT NULL GROUP BY 1, 2 ORDER BY 1, 2`, (*sliding).add, day.Since, day.Until)
		if err != nil {
			return nil, err
		}
	}
	for id, s := range objects {
		found.Of[id] = s.peak
	}
	return found, nil
}
