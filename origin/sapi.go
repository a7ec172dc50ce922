package origin

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// sapiRequest is what PHP keeps of the request that a process runs, SG(request_info)
// of main/SAPI.h. It lies in memory of the caller's uid, and so is Claimed.
type sapiRequest struct {
	script string // the one that the request began with
	method string
	uri    string // with the query
}

// sapis remembers where processes of root and programs have sapi_globals. Its lock is
// not held while a process or a file is read: users can make that wait for ever.
type sapis struct {
	mu        sync.Mutex
	processes map[sapiProcess]sapiPlace
	programs  map[sapiProgram]uint64 // distance from the beginning, 0 if there is none
}

type sapiProcess struct {
	pid   int
	start uint64
}

// sapiPlace is an address, and when it was last looked for in vain.
type sapiPlace struct {
	at     uint64
	failed time.Time
}

type sapiProgram struct {
	device, inode uint64
	size          int64
	modified      unix.Timespec
}

const (
	cachedSAPIs = 256
	maxMaps     = 1 << 20 // bytes read of a process's mappings
	sapiRecheck = time.Second
)

// request reads what a worker of a server runs; php-cgi is its own server. With
// opcache no file is open of a script that is run again, and the working directory
// is any, so that nothing but PHP itself knows the script. Workers are forked
// without another program, so that they have it at the server's address. Reading
// needs CAP_SYS_PTRACE, as executables do.
func (s *sapis) request(server, worker *process) (sapiRequest, bool) {
	st, ok := parseStat(server.read("stat", 512, maxSmall))
	if !ok {
		return sapiRequest{}, false
	}
	key := sapiProcess{server.pid, st.start}
	s.mu.Lock()
	known := s.processes[key]
	s.mu.Unlock()
	r, ok := worker.sapiRequest(known.at)
	if ok || time.Since(known.failed) < sapiRecheck {
		return r, ok
	}
	// Not known yet, or not there any more: Apache loads its modules anew at a reload.
	place := sapiPlace{at: s.find(server)}
	if r, ok = worker.sapiRequest(place.at); !ok {
		place.failed = time.Now()
	}
	if server.uids.all(isRoot) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.processes == nil || len(s.processes) >= cachedSAPIs {
			s.processes = make(map[sapiProcess]sapiPlace)
		}
		s.processes[key] = place
	}
	return r, ok
}

// sapiRequest reads the request from sapi_globals at an address, 0 if it is not known.
func (p *process) sapiRequest(at uint64) (sapiRequest, bool) {
	if at == 0 {
		return sapiRequest{}, false
	}
	m, err := p.openMemory()
	if err != nil {
		return sapiRequest{}, false
	}
	defer m.close()
	return readSAPI(m.read, at)
}

// memory is an open file /proc/PID/mem.
type memory struct{ fd int }

func (p *process) openMemory() (memory, error) {
	fd, err := unix.Openat(p.dir, "mem", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	return memory{fd}, err
}

func (m memory) close() { unix.Close(m.fd) }

// read reads from an address on, and returns how many bytes it read.
func (m memory) read(b []byte, at uint64) int {
	n, err := unix.Pread(m.fd, b, int64(at))
	if err != nil {
		return 0
	}
	return n
}

// The beginning of struct _sapi_globals_struct, the same from PHP 7 on to 8.5: a
// pointer to the server's context, and sapi_request_info, which begins with
// request_method, query_string, cookie_data, content_length, path_translated and
// request_uri, each 8 bytes.
const (
	sapiMethod = 1
	sapiQuery  = 2
	sapiScript = 5
	sapiURI    = 6
	sapiWords  = 7
)

// readSAPI reads the request through pread, which returns how many bytes it read.
func readSAPI(pread func(b []byte, at uint64) int, at uint64) (r sapiRequest, ok bool) {
	var words [8 * sapiWords]byte
	if pread(words[:], at) != len(words) {
		return sapiRequest{}, false
	}
	text := func(i int) string {
		pointer := binary.NativeEndian.Uint64(words[8*i:])
		if pointer == 0 || pointer >= 1<<63 {
			return ""
		}
		var b [maxValue]byte
		s, _, ended := bytes.Cut(b[:max(pread(b[:], pointer), 0)], []byte{0})
		if !ended || !utf8.Valid(s) {
			return ""
		}
		return string(s)
	}
	r.script, r.method, r.uri = text(sapiScript), text(sapiMethod), text(sapiURI)
	// Another layout than the one that is known does not look like a request.
	if !filepath.IsAbs(r.script) || !strings.HasPrefix(r.uri, "/") || r.method == "" || strings.Trim(r.method, "ABCDEFGHIJKLMNOPQRSTUVWXYZ-_") != "" {
		return sapiRequest{}, false
	}
	if query := text(sapiQuery); query != "" {
		r.uri += "?" + query
	}
	return r, true
}

// find returns where sapi_globals of a server lies, 0 if that is not known: it looks
// for the symbol in the executable of a server, or in the
// PHP module that one of root has loaded. PHP with threads (ZTS) has none.
func (s *sapis) find(server *process) uint64 {
	exe := server.readlink("exe")
	for line := range bytes.Lines(server.readAll("maps", maxMaps)) {
		m, ok := parseMapping(string(line))
		if !ok || m.offset != 0 {
			continue
		}
		dir, name := server.dir, "exe" // its path may be another file's by now
		if m.path != exe {
			if !strings.HasPrefix(filepath.Base(m.path), "libphp") || !server.uids.all(isRoot) {
				continue
			}
			dir, name = unix.AT_FDCWD, m.path
		}
		fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err != nil {
			continue
		}
		f := os.NewFile(uintptr(fd), m.path)
		distance := s.distance(f)
		f.Close()
		if distance != 0 {
			return m.start + distance
		}
	}
	return 0
}

// distance is that of sapi_globals from the beginning of a program in memory, 0
// if it has none or others than root may write it.
func (s *sapis) distance(f *os.File) uint64 {
	st, err := f.Stat()
	if err != nil || !st.Mode().IsRegular() || writtenByRoot(f.Name(), st) != nil {
		return 0
	}
	sys := st.Sys().(*syscall.Stat_t)
	key := sapiProgram{sys.Dev, sys.Ino, sys.Size, unix.Timespec(sys.Mtim)}
	s.mu.Lock()
	value, known := s.programs[key]
	s.mu.Unlock()
	if !known {
		value = sapiSymbol(f)
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.programs == nil || len(s.programs) >= cachedSAPIs {
			s.programs = make(map[sapiProgram]uint64)
		}
		s.programs[key] = value
	}
	return value
}

func sapiSymbol(f *os.File) uint64 {
	image, err := elf.NewFile(f)
	if err != nil || image.Class != elf.ELFCLASS64 {
		return 0
	}
	symbols, err := image.DynamicSymbols()
	if err != nil {
		return 0
	}
	for _, symbol := range symbols {
		if symbol.Name != "sapi_globals" || symbol.Section == elf.SHN_UNDEF || elf.ST_TYPE(symbol.Info) != elf.STT_OBJECT {
			continue
		}
		for _, segment := range image.Progs {
			if segment.Type == elf.PT_LOAD && segment.Off == 0 {
				return symbol.Value - segment.Vaddr
			}
		}
	}
	return 0
}

// mapping is a line of proc_pid_maps(5).
type mapping struct {
	start, offset uint64
	path          string
}

func parseMapping(line string) (mapping, bool) {
	fields := strings.Fields(line)
	if len(fields) < 6 {
		return mapping{}, false
	}
	from, _, ok := strings.Cut(fields[0], "-")
	start, err := strconv.ParseUint(from, 16, 64)
	offset, errOffset := strconv.ParseUint(fields[2], 16, 64)
	if !ok || err != nil || errOffset != nil {
		return mapping{}, false
	}
	return mapping{start: start, offset: offset, path: fields[5]}, true
}

// readAll reads a file of /proc that is given in pieces, at most limit bytes.
func (p *process) readAll(name string, limit int) []byte {
	fd, err := unix.Openat(p.dir, name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	defer unix.Close(fd)
	buf := make([]byte, 0, 32<<10)
	for len(buf) < limit {
		if len(buf) == cap(buf) {
			buf = append(buf, 0)[:len(buf)]
		}
		n, err := unix.Read(fd, buf[len(buf):cap(buf)])
		if err != nil || n <= 0 {
			break
		}
		buf = buf[:len(buf)+n]
	}
	return buf
}
