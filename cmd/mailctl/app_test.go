package main

import (
	"bytes"
	"os"
	"testing"
)

// TestFull: output that cannot be written is no success.
func TestFull(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	var stderr bytes.Buffer
	if exit := run(t.Context(), []string{"--help"}, full, &stderr); exit != exWrong || stderr.String() != "mailctl: error: write /dev/full: no space left on device\n" {
		t.Errorf("%d, %q", exit, stderr.String())
	}
}
