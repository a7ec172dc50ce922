package quota

import (
	"bufio"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// What a memory holds is written down in a file beside the journal: a line of
// JSON with the rest (knowledgeHead), then one for each route and account
// (knowledgeLine). It is written a few at a time, so that it takes no memory of
// its own.

type knowledgeHead struct {
	Number  uint64        // another one each time
	Offset  time.Duration // of the database's clock to this host's
	Hosts   int64
	Strange map[Class]Bounds
	Modes   map[string]Mode `json:",omitzero"`
	Mode    Mode            `json:",omitzero"` // of the server
}

type knowledgeLine struct {
	Key       *routeKey  `json:",omitzero"`
	Route     *route     `json:",omitzero"`
	ID        ID         `json:",omitzero"`
	Account   *known     `json:",omitzero"`
	Exception *Exception `json:",omitzero"`
}

// knowledgePage is how many are looked at with the memory locked.
const knowledgePage = 500

// write writes down what is remembered, and returns its number. The file is
// there whole, or as it was.
func (m *memory) write(path string) (number uint64, err error) {
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return 0, fmt.Errorf("write down what is known: %w", err)
	}
	w := bufio.NewWriter(f)
	number = rand.Uint64()
	err = m.encode(json.NewEncoder(w), number)
	err = errors.Join(err, w.Flush(), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		return 0, fmt.Errorf("write down what is known: %w", err)
	}
	return number, nil
}

// syncDir brings a new name in a directory to the disk (fsync(2)).
func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (m *memory) encode(e *json.Encoder, number uint64) error {
	m.mu.Lock()
	head := knowledgeHead{number, m.seen.Sub(m.seenAt), m.hosts, m.strange, m.modes, ""} // maps are never changed, only replaced
	keys, ids := m.routes.Keys(), m.accounts.Keys()                                      // oldest first, as they are read again
	m.mu.Unlock()
	holds := m.lastRules()
	head.Mode = holds.mode
	if err := e.Encode(head); err != nil {
		return err
	}
	for i := range holds.exceptions {
		if err := e.Encode(knowledgeLine{Exception: &holds.exceptions[i]}); err != nil {
			return err
		}
	}
	for page := range slices.Chunk(keys, knowledgePage) {
		for _, line := range m.routeLines(page) {
			if err := e.Encode(line); err != nil {
				return err
			}
		}
	}
	for page := range slices.Chunk(ids, knowledgePage) {
		for _, line := range m.accountLines(page) {
			if err := e.Encode(line); err != nil {
				return err
			}
		}
	}
	return nil
}

func (m *memory) routeLines(keys []routeKey) (lines []knowledgeLine) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range keys {
		if r, ok := m.routes.Peek(keys[i]); ok {
			lines = append(lines, knowledgeLine{Key: &keys[i], Route: r})
		}
	}
	return lines
}

func (m *memory) accountLines(ids []ID) (lines []knowledgeLine) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, id := range ids {
		if k, ok := m.accounts.Peek(id); ok {
			lines = append(lines, knowledgeLine{ID: id, Account: k})
		}
	}
	return lines
}

// read takes what write wrote in an earlier life; nothing of it is current. The
// number is 0 where there is no file. isExact tells of a number whether nothing
// was charged since but by the journal. After an error that is errBroken what
// could be read is known.
func (m *memory) read(path string, isExact func(number uint64) (bool, error)) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read what was known: %w", err)
	}
	defer f.Close()
	d := json.NewDecoder(bufio.NewReader(f))
	var head knowledgeHead
	if err := d.Decode(&head); err != nil {
		return fmt.Errorf("%s: %w: %w", path, errBroken, err)
	}
	exact, err := isExact(head.Number)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.hosts, m.strange, m.seenAt = max(head.Hosts, 1), head.Strange, time.Now()
	if head.Modes != nil {
		m.modes = head.Modes
	}
	m.seen = m.seenAt.Round(0).UTC().Add(head.Offset)
	var exceptions []Exception
	defer func() { m.rules = newRules(cmp.Or(head.Mode, Enforce), exceptions) }()
	for {
		var line knowledgeLine
		err := d.Decode(&line)
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return fmt.Errorf("%s: %w: %w", path, errBroken, err)
		case line.Route != nil && line.Key != nil:
			if line.Route.Exempt {
				line.Route.Mode, line.Route.Exempt = Off, false
			}
			m.addRoute(*line.Key, line.Route)
		case line.Exception != nil:
			exceptions = append(exceptions, *line.Exception)
		case line.Account != nil:
			line.Account.Stale = line.Account.Stale || !exact
			m.accounts.Add(line.ID, line.Account)
		}
	}
}
