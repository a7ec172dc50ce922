package main

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"sendmail-wrapper/inventory"
)

func (a *app) exportCommand() *cobra.Command {
	var output string
	c := &cobra.Command{
		Use: "export", Short: "write all plans, subscriptions, domains, mailboxes, users, limits, modes, senders and exceptions as JSON", Args: cobra.NoArgs,
		Long: "export writes all that an administrator has set, as of one moment, in a format that mailctl import json reads. Messages,\n" +
			"counters and the audit are not in it. The format is described in docs/import.md.",
		Example: "  mailctl export >backup.json\n  mailctl export --output /var/backups/mailctl.json",
		RunE: func(c *cobra.Command, _ []string) error {
			ad, err := a.admin(c.Context())
			if err != nil {
				return err
			}
			inv, err := ad.Export(c.Context())
			if err != nil {
				return err
			}
			if output == "" || output == "-" {
				return inv.WriteJSON(escaper{a.stdout})
			}
			if err := writeExport(output, inv); err != nil {
				return err
			}
			return a.done("wrote %d objects to %s", len(inv.Objects), output)
		},
	}
	c.Flags().StringVar(&output, "output", "", "`file` to write, readable by its owner alone; by default standard output")
	mustBeDefined(c.MarkFlagFilename("output", "json"))
	return c
}

// writeExport leaves either the whole new file, which nobody else can read, or
// what was there.
func writeExport(path string, inv *inventory.Inventory) error {
	was, err := inventory.ReadFile(path, inventory.MaxJSON)
	free := errors.Is(err, fs.ErrNotExist) || err == nil && len(was) == 0
	if !free && !bytes.HasPrefix(was, []byte(inventory.Beginning)) {
		return &failure{exWrong, path + " is there and no export: it is left as it is", "give the name of a file that is new, or of an older export"}
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone already if all went well
	if err := errors.Join(inv.WriteJSON(f), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
