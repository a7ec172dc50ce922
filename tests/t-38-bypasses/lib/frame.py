"""Requests to mailquotad as a client of alice's own makes them: see wire/wire.go. ask() returns verdict, exit
status and the rest of the answer."""
import fcntl, os, socket, struct

VERSION = 5
ACCEPT, REFUSE, UNAVAILABLE, ERROR, HANDED = 1, 2, 3, 4, 5
SEALS = 1 | 2 | 4 | 8  # F_SEAL_SEAL, _SHRINK, _GROW, _WRITE
MTA = os.environ["MTA"]


def connect():
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(10)
    s.connect("/run/mailquota/mailquotad.sock")
    return s


def number(n):
    out = b""
    while n > 127:
        out, n = out + bytes([n & 127 | 128]), n >> 7
    return out + bytes([n])


def text(s):
    s = s if isinstance(s, bytes) else s.encode()
    return number(len(s)) + s


def many(words):
    return number(len(words)) + b"".join(map(text, words))


def memfd(content, seals=SEALS):
    fd = os.memfd_create("message", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
    os.write(fd, content)
    if seals:
        fcntl.fcntl(fd, 1033, seals)  # F_ADD_SEALS
    return fd


def ask(argv, fds, profile=MTA, hints=(), sender="", recipients=0, to=(), hand_off=True, truncated=False, leave=False):
    body = number(VERSION) + number(1) + text(profile) + many(argv) + many(list(hints)) + number(int(truncated))
    body += text(sender) + number(recipients) + many(list(to)) + text("")
    body += number(int(hand_off))
    s = connect()
    socket.send_fds(s, [b"SQW1" + struct.pack(">I", len(body)) + body], fds)
    if leave:
        return s
    answer = b""
    while chunk := s.recv(65536):
        answer += chunk
    print(answer[8:])
    return answer[9:10], answer[10:]


