#!/usr/bin/python3
"""An SMTP server for outside domains: sink.py ADDRESS PORT FILE. Each recipient whose message it has taken is a line
"SENDER RECIPIENT" in FILE. Words in a recipient's local part say what it answers:
  defer    451 at the first RCPT            reject   550 at RCPT
  late     451 after the content, once      slow     takes two seconds after the content
"""
import asyncio
import re
import sys

taken = open(sys.argv[3], "a")
seen = set()


def once(key):
    first = key not in seen
    seen.add(key)
    return first


async def session(r, w):
    sender, recipients = "", []
    w.write(b"220 sink ESMTP\r\n")
    while line := (await r.readline()).decode("latin-1").rstrip("\r\n"):
        verb = line[:4].upper()
        address = (re.search("<(.*?)>", line) or [0, ""])[1]
        if verb == "EHLO":
            w.write(b"250-sink\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 DSN\r\n")
        elif verb == "MAIL":
            sender, recipients = address, []
            w.write(b"250 2.1.0 ok\r\n")
        elif verb == "RCPT":
            if "reject" in address:
                w.write(b"550 5.1.1 no such address\r\n")
            elif "defer" in address and once(address):
                w.write(b"451 4.2.1 not now\r\n")
            else:
                recipients.append(address)
                w.write(b"250 2.1.5 ok\r\n")
        elif verb == "DATA" and not recipients:
            w.write(b"554 5.5.1 no recipients\r\n")
        elif verb == "DATA":
            w.write(b"354 go on\r\n")
            while (await r.readline()) not in (b".\r\n", b""):
                pass
            if any("slow" in a for a in recipients):
                await asyncio.sleep(2)
            if any("late" in a and once("late " + a) for a in recipients):
                w.write(b"451 4.3.0 not now\r\n")
                continue
            for a in recipients:
                print(sender or "<>", a, file=taken, flush=True)
            w.write(b"250 2.0.0 taken\r\n")
        elif verb == "QUIT":
            w.write(b"221 2.0.0 bye\r\n")
            break
        else:
            w.write(b"250 2.0.0 ok\r\n")
    w.close()


async def main():
    server = await asyncio.start_server(session, sys.argv[1], int(sys.argv[2]), backlog=4096)
    await server.serve_forever()


asyncio.run(main())
