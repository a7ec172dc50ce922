# MIME::Lite with the way to send that it takes by default on Unix.
use strict;
use warnings;
use MIME::Base64;
use MIME::Lite;

my $domain = $ENV{DOMAIN};
chdir '/srv/clients' or die;
sub slurp { open my $f, '<:raw', $_[0] or die; local $/; <$f> }
my $message = MIME::Lite->new(
	From => "from\@$domain", To => "to\@$domain", Cc => "cc\@$domain", Bcc => "bcc\@$domain",
	Subject => '=?utf-8?B?' . encode_base64(slurp('subject'), '') . '?=', Type => 'multipart/mixed',
);
$message->attach(Type => 'text/plain; charset=utf-8', Encoding => '8bit', Data => slurp('text'));
$message->attach(Type => 'application/octet-stream', Path => 'bytes.bin', Encoding => 'base64');
print eval { $message->send } ? "sent\n" : "send() died: $@";
