// Command exim answers `exim -bP extract_addresses_remove_arguments`.
package main

import "os"

func main() {
	if len(os.Args) == 3 && os.Args[1] == "-bP" && os.Args[2] == "extract_addresses_remove_arguments" {
		os.Stdout.WriteString(os.Getenv("ANSWER") + "\n")
	}
}
