package inventory_test

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"sendmail-wrapper/inventory"
)

// sane checks what holds whatever a source says.
func sane(t *testing.T, inv *inventory.Inventory, err error) {
	t.Helper()
	if err != nil {
		if inv != nil || !errors.As(err, new(*inventory.Error)) {
			t.Fatalf("%v: %v", inv, err)
		}
		return
	}
	seen := make(map[inventory.Ref]bool)
	for _, o := range inv.Objects {
		if seen[o.Key()] || o.Class == 0 || inv.Observed && (len(o.Limits) > 0 || o.Mode.Said || o.Contact.Said) {
			t.Fatalf("%+v", o)
		}
		seen[o.Key()] = true
	}
	// What is written can be read, and is the same.
	var first, second bytes.Buffer
	if err := inv.WriteJSON(&first); err != nil {
		t.Fatal(err)
	}
	again, err := inventory.ReadJSON("again", first.Bytes(), "host1")
	if err != nil {
		t.Fatalf("%v\n%s", err, first.Bytes())
	}
	if err := again.WriteJSON(&second); err != nil || !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Fatalf("%v:\n%s\n%s", err, first.Bytes(), second.Bytes())
	}
}

func FuzzJSON(f *testing.F) {
	f.Add([]byte(export))
	f.Add([]byte(`{"users": [{"user": "a", "uid": 7, "limits": {"messages/day": null}}], "format": 1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		inv, err := inventory.ReadJSON("x", b, "host1")
		sane(t, inv, err)
	})
}

func FuzzCSV(f *testing.F) {
	f.Add(text(f, "customers.csv"))
	f.Add(text(f, "customers-windows.csv"))
	f.Fuzz(func(t *testing.T, b []byte) {
		inv, err := inventory.ReadCSV("x", b, system(t))
		sane(t, inv, err)
	})
}

func FuzzPasswd(f *testing.F) {
	f.Add(text(f, "passwd"))
	f.Fuzz(func(t *testing.T, b []byte) {
		inv, err := inventory.ReadPasswd("x", b, inventory.NewSystem("host1", 1000, b), 0, 60000)
		sane(t, inv, err)
	})
}

func FuzzOwners(f *testing.F) {
	f.Add(text(f, "userdomains"))
	f.Add(text(f, "domainowners"))
	f.Fuzz(func(t *testing.T, b []byte) {
		inv, err := inventory.ReadOwners([]inventory.File{{Name: "x", Text: b}}, system(t))
		sane(t, inv, err)
	})
}

func FuzzPlesk(f *testing.F) {
	f.Add(text(f, "plesk.tsv"))
	f.Fuzz(func(t *testing.T, b []byte) {
		inv, err := inventory.ReadPlesk("x", b, system(t))
		sane(t, inv, err)
	})
}

// FuzzApache reads a configuration that may include itself and one other file.
func FuzzApache(f *testing.F) {
	f.Add(text(f, "apache/sites-enabled/acme.conf"), text(f, "apache/common.inc"))
	f.Add(text(f, "apache/sites-enabled/bob.conf"), []byte("Include x\n"))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		s := system(t)
		reads := 0
		s.Read = func(path string) ([]byte, error) {
			if reads++; reads > 100 {
				return nil, &inventory.Error{File: path, Text: "enough"}
			}
			switch path {
			case "/etc/x":
				return a, nil
			case "/etc/y":
				return b, nil
			}
			return nil, &inventory.Error{File: path, Text: fmt.Sprintf("not there after %d", reads)}
		}
		s.Glob = func(pattern string) ([]string, error) {
			if pattern == "/etc/x" || pattern == "/etc/y" {
				return []string{pattern}, nil
			}
			return nil, nil
		}
		inv, err := inventory.ReadApache("/etc/x", s)
		sane(t, inv, err)
	})
}
