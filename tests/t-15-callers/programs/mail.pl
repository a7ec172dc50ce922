#!/usr/bin/perl
open my $m, '|-', '/usr/sbin/sendmail', 'x@outside.example' or die; print $m "Subject: Perl\n\nx\n"; close $m;
print "Content-Type: text/plain\n\nsent\n";
