package quota

import (
	"fmt"
	"strings"
)

// Class is the class of an object. The numbers are stored, and their order is
// the order in which usage rows are locked.
type Class uint8

const (
	User Class = 1 + iota
	Mailbox
	Domain
	Subscription
	Plan
	Server
)

var classNames = [...]string{User: "user", Mailbox: "mailbox", Domain: "domain",
	Subscription: "subscription", Plan: "plan", Server: "server"}

// String returns the word that stands before the colon in an object's name.
func (c Class) String() string {
	if c < User || c > Server {
		return fmt.Sprintf("class(%d)", uint8(c))
	}
	return classNames[c]
}

// ID names an object in the database: class << 40 | number.
type ID int64

// ServerID is the one object of class Server.
const ServerID = ID(Server) << 40

// Class returns the class that the ID carries.
func (id ID) Class() Class { return Class(id >> 40) }

// Object is an object as people write it: "server", "plan:NAME",
// "subscription:NAME", "domain:NAME", "mailbox:ADDRESS", "user:NAME".
type Object struct {
	Class Class
	Name  string // empty for the server
}

// String returns the form that ParseObject reads.
func (o Object) String() string {
	if o.Class == Server {
		return "server"
	}
	return o.Class.String() + ":" + o.Name
}

// phrase is how a sentence names an object.
func (o Object) phrase() string {
	if o.Name == "" {
		return o.Class.String()
	}
	return o.Class.String() + " " + o.Name
}

// ParseObject reads the form that String returns. Domains and mailbox
// addresses are folded to lower case. The error names the forms there are.
func ParseObject(s string) (Object, error) {
	if s == "server" {
		return Object{Class: Server}, nil
	}
	word, name, ok := strings.Cut(s, ":")
	for c := User; c < Server; c++ {
		if ok && word == classNames[c] && name != "" {
			if c == Domain || c == Mailbox {
				name = strings.ToLower(name)
			}
			return Object{Class: c, Name: name}, nil
		}
	}
	return Object{}, fmt.Errorf("%q is no object: write server, plan:NAME, subscription:NAME, domain:NAME, mailbox:ADDRESS or user:NAME", s)
}
