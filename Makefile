# make help says what there is.

export CGO_ENABLED = 0
# One version everywhere: of the tag, or of the commit. Its date makes two builds of one commit alike.
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
BUILD = go build -trimpath -buildvcs=false -o bin/
LDFLAGS = -s -w -buildid= -X main.version=$(VERSION)
# What the wrapper does before Go's runtime starts, on machines for which it is written: wrapper/inherited.go says why.
ENTRY = $(if $(wildcard wrapper/entry_$(shell go env GOARCH).s),-E sendmail_wrapper_entry)

DESTDIR    ?=
PREFIX     ?= /usr
SYSCONFDIR ?= /etc
SERVER     ?= demo

.PHONY: help
help: ## what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## */\1\t/' | awk -F'\t' '{printf "  make %-11s %s\n", $$1, $$2}'

.PHONY: build
build: ## the five programs, static and reproducible, into bin/
	@$(BUILD) -ldflags "$(LDFLAGS)" ./cmd/mailquotad ./cmd/mailctl ./cmd/mailquota-transport ./cmd/mailquota-submit
	@$(BUILD) -ldflags "$(LDFLAGS) $(ENTRY)" ./cmd/sendmail-wrapper

.PHONY: deps
deps: ## what the tests need on this machine (apt-get, once)
	@tests/deps

.PHONY: test
test: deps build ## all tests: unit, property, fuzz seeds, scripts, and end to end in a throw-away server
	@go vet ./...
	@test -z "$$(gofmt -l .)" || { echo "gofmt would change:"; gofmt -l .; exit 1; }
	go test ./...
	@tests/run-all

.PHONY: test-e2e
test-e2e: deps build ## only the end-to-end tests; T=t-02-limits for one
	@tests/run-all $(T)

.PHONY: conformance
conformance: deps ## calls of seven mail servers' sendmail, without and with the wrapper
	@tests/conformance postfix exim sendmail opensmtpd msmtp nullmailer dma

.PHONY: kill
kill: deps ## programs killed and power cut at random points, ROUNDS times each (200); SEED repeats a run
	CRASH_ROUNDS=$(or $(ROUNDS),200) CRASH_SEED=$(SEED) go test -tags power ./tests/crash -run '^Test(Kill|KillHosts|PowerCut)$$' -count=1 -timeout 6h -v

.PHONY: fuzz
fuzz: ## each fuzz target for FUZZTIME (30s)
	@tests/fuzz $(or $(FUZZTIME),30s)

.PHONY: bench
bench: deps build ## speed, each figure beside its reference; ROWS=regexp for some, QUICK=1, LONG=1
	@tests/bench-run $(if $(ROWS),-rows '$(value ROWS)') $(if $(QUICK),-quick) $(if $(LONG),-long)

.PHONY: bench-peers
bench-peers: deps build ## policy decisions beside policyd-rate-limit and postfwd; ROWS=regexp for some, QUICK=1
	@tests/bench-peers $(if $(ROWS),-rows '$(value ROWS)') $(if $(QUICK),-quick)

.PHONY: demo
demo: deps build ## a server, hacked scripts, limits, reports: to watch; KEEP=1 leaves the server up
	@tests/demo $(if $(KEEP),--keep)

.PHONY: install
install: build ## files below DESTDIR; packaging/install-by-hand then puts them to work
	install -D -m 755 bin/sendmail-wrapper $(DESTDIR)$(PREFIX)/sbin/sendmail-wrapper
	install -D -m 755 bin/mailquotad $(DESTDIR)$(PREFIX)/sbin/mailquotad
	install -D -m 755 bin/mailquota-transport $(DESTDIR)$(PREFIX)/sbin/mailquota-transport
	install -D -m 755 bin/mailquota-submit $(DESTDIR)$(PREFIX)/sbin/mailquota-submit
	install -D -m 755 bin/mailctl $(DESTDIR)$(PREFIX)/bin/mailctl
	install -D -m 755 -t $(DESTDIR)$(PREFIX)/libexec/sendmail-wrapper packaging/names packaging/undo packaging/install-by-hand
	@for u in packaging/systemd/*; do install -D -m 644 $$u $(DESTDIR)$(PREFIX)/lib/systemd/system/$${u##*/} || exit; done
	@for e in packaging/exim/*; do install -D -m 644 $$e $(DESTDIR)$(PREFIX)/share/sendmail-wrapper/exim/$${e##*/} || exit; done
	install -D -m 644 packaging/sysusers.conf $(DESTDIR)$(PREFIX)/lib/sysusers.d/sendmail-wrapper.conf
	install -D -m 644 packaging/tmpfiles.conf $(DESTDIR)$(PREFIX)/lib/tmpfiles.d/sendmail-wrapper.conf
	install -D -m 644 packaging/tmpfiles-fpm.conf $(DESTDIR)$(PREFIX)/lib/tmpfiles.d/mailquota-fpm.conf
	@for m in man/*.[158]; do install -D -m 644 $$m $(DESTDIR)$(PREFIX)/share/man/man$${m##*.}/$${m##*/} || exit; done
	@for c in wrapper mailquotad; do f=$(DESTDIR)$(SYSCONFDIR)/sendmail-wrapper/$$c.conf; \
	  test -e $$f || install -D -m 644 config/$$c.conf $$f || exit; done

.PHONY: package
package: build ## packages for Debian, Ubuntu and the like (deb) and Red Hat, SUSE and the like (rpm), into build/
	@VERSION=$(VERSION) packaging/build deb rpm

.PHONY: clean
clean: ## what was built
	rm -rf bin build
