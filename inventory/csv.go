package inventory

import (
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"

	"sendmail-wrapper/quota"
)

// columns of CSV besides the limits.
var columns = []string{"plan", "subscription", "contact", "user", "uid", "host", "domain", "document_root", "mailbox", "mode"}

// ReadCSV reads a table (RFC 4180) whose first line names the columns. Each line
// says something of the objects that it names; empty cells say nothing. A line may
// name a subscription with one user, one domain and one mailbox, and any number of
// lines may speak of one object, as long as they agree. Limits and mode are of the
// mailbox, else the domain, else the user, else the subscription; on a line that
// names nothing but a plan, of the plan's subscriptions.
func ReadCSV(file string, text []byte, s *System) (*Inventory, error) {
	text, err := checkText(file, text, maxLine)
	if err != nil {
		return nil, err
	}
	r := csv.NewReader(bytes.NewReader(text))
	r.ReuseRecord = true
	head, err := readHeader(file, r)
	if err != nil {
		return nil, err
	}
	b := newBuilder()
	for {
		cells, err := r.Read()
		if err == io.EOF {
			return b.inv, nil
		}
		if err != nil {
			return nil, csvError(file, err)
		}
		line, _ := r.FieldPos(0)
		row := csvRow{line: line, cells: make(map[string]string, len(head))}
		for i, cell := range cells {
			// Spreadsheets run such a cell when the table is shown to somebody.
			if cell = strings.TrimSpace(cell); cell != "" && strings.ContainsAny(cell[:1], "=+-@") {
				line, column := r.FieldPos(i)
				return nil, &Error{file, line, column, fmt.Sprintf("%s %q begins as a formula does", head[i], cell)}
			}
			row.cells[head[i]] = cell
		}
		if err := row.put(b, s); err != nil {
			return nil, &Error{file, line, 0, err.Error()}
		}
	}
}

func readHeader(file string, r *csv.Reader) ([]string, error) {
	cells, err := r.Read()
	if err == io.EOF {
		return nil, &Error{file, 1, 0, "there is no line that names the columns"}
	}
	if err != nil {
		return nil, csvError(file, err)
	}
	var head []string
	for i, cell := range cells {
		name := strings.ToLower(strings.TrimSpace(cell))
		line, column := r.FieldPos(i)
		_, notLimit := quota.ParseLimit(name)
		switch {
		case slices.Contains(head, name):
			return nil, &Error{file, line, column, fmt.Sprintf("column %s stands there twice", name)}
		case notLimit != nil && !slices.Contains(columns, name):
			why := fmt.Sprintf("%q is no column: there are %s, and limits such as messages/hour", cell, strings.Join(columns, ", "))
			if strings.ContainsAny(name, ";\t") {
				why += "; columns are separated by commas"
			}
			return nil, &Error{file, line, column, why}
		}
		head = append(head, name)
	}
	return head, nil
}

func csvError(file string, err error) error {
	var e *csv.ParseError
	if errors.As(err, &e) {
		return &Error{file, e.Line, e.Column, e.Err.Error()}
	}
	return &Error{file, 0, 0, err.Error()}
}

type csvRow struct {
	line  int
	cells map[string]string
}

// put adds the objects of a row.
func (r csvRow) put(b *builder, s *System) error {
	c := r.cells
	objects, err := r.objects(s)
	if err != nil {
		return err
	}
	if len(objects) == 0 {
		for _, cell := range c {
			if cell != "" {
				return errors.New("no object: name a plan, subscription, user, domain or mailbox")
			}
		}
		return nil
	}
	last := &objects[len(objects)-1]
	if err := r.properties(last); err != nil {
		return err
	}
	if (last.Mode.Said || len(last.Limits) > 0) && c["user"] != "" && last.Class != quota.User {
		return fmt.Errorf("limits of %s, or of the user? Write two lines", last.Ref)
	}
	for _, o := range objects {
		o.Line = r.line
		if err := b.put(o); err != nil {
			return err
		}
	}
	return nil
}

// objects are those that a row names, the one of its limits last.
func (r csvRow) objects(s *System) (objects []Object, err error) {
	c := r.cells
	subscription := c["subscription"]
	for _, need := range [][2]string{{"contact", "subscription"}, {"user", "subscription"}, {"uid", "user"}, {"host", "user"}, {"document_root", "domain"}} {
		if c[need[0]] != "" && c[need[1]] == "" {
			return nil, fmt.Errorf("%s %q without a %s", need[0], c[need[0]], need[1])
		}
	}
	if plan := c["plan"]; plan != "" {
		if subscription == "" && c["domain"]+c["mailbox"] != "" {
			return nil, fmt.Errorf("plan %q without a subscription", plan)
		}
		objects = append(objects, Object{Ref: Ref{Class: quota.Plan, Name: plan}})
	}
	if subscription != "" {
		o := Object{Ref: Ref{Class: quota.Subscription, Name: subscription}, Parent: c["plan"]}
		if c["contact"] != "" {
			o.Contact = Say(c["contact"])
		}
		objects = append(objects, o)
	}
	if login := c["user"]; login != "" {
		user, err := r.user(login, s)
		if err != nil {
			return nil, err
		}
		objects = append(objects, Object{Ref: user, Parent: subscription})
	}
	if name := strings.ToLower(c["domain"]); name != "" {
		o := Object{Ref: Ref{Class: quota.Domain, Name: name}, Parent: subscription}
		if c["document_root"] != "" {
			o.DocumentRoot = Say(c["document_root"])
		}
		objects = append(objects, o)
	}
	if address := strings.ToLower(c["mailbox"]); address != "" {
		_, domain, ok := strings.Cut(address, "@")
		if !ok {
			return nil, fmt.Errorf("mailbox %q is no address", address)
		}
		if named := strings.ToLower(c["domain"]); named != "" && named != domain {
			return nil, fmt.Errorf("mailbox %s is not of domain %s", address, named)
		}
		objects = append(objects, Object{Ref: Ref{Class: quota.Mailbox, Name: address}, Parent: domain})
	}
	return objects, nil
}

func (r csvRow) user(login string, s *System) (Ref, error) {
	host := r.cells["host"]
	if host == "" {
		host = s.Host
	}
	if r.cells["uid"] != "" {
		uid, err := strconv.ParseUint(r.cells["uid"], 10, 32)
		if err != nil {
			return Ref{}, fmt.Errorf("uid %q is no number up to %d", r.cells["uid"], uint32(math.MaxUint32))
		}
		return Ref{quota.User, login, host, int64(uid)}, nil
	}
	uid, there := s.uids[login]
	if host != s.Host || !there {
		return Ref{}, fmt.Errorf("there is no login %s on %s that is known here: give his uid", login, host)
	}
	return s.user(login, uid), nil
}

// properties reads mode and limits into the object that they are of.
func (r csvRow) properties(o *Object) error {
	switch mode := r.cells["mode"]; mode {
	case "":
	case "inherit":
		o.Mode = Say("")
	default:
		m, err := quota.ParseMode(mode)
		if err != nil {
			return err
		}
		o.Mode = Say(string(m))
	}
	class := o.Class
	if class == quota.Plan {
		class = quota.Subscription
	}
	for l := range quota.Limit(quota.NumLimits) {
		cell := r.cells[l.String()]
		if cell == "" {
			continue
		}
		value, err := parseValue(cell)
		if err != nil {
			return fmt.Errorf("%s: %w", l, err)
		}
		o.Limits = append(o.Limits, Limit{class, l, value})
	}
	return nil
}

func parseValue(s string) (*int64, error) {
	switch s {
	case "inherit":
		return nil, nil
	case "unlimited":
		n := int64(quota.Unlimited)
		return &n, nil
	}
	n, err := strconv.ParseInt(s, 10, 32)
	if err != nil || n < 0 {
		return nil, fmt.Errorf("%q is no limit: write a number from 0 to %d, unlimited or inherit", s, math.MaxInt32)
	}
	return &n, nil
}
