<?php
// PEAR's Mail with Mail_mime, by the driver that the argument names.
require __DIR__ . '/message.php';
require 'Mail.php';
require 'Mail/mime.php';

$mime = new Mail_mime(['text_charset' => 'utf-8', 'head_charset' => 'utf-8']);
$mime->setTXTBody($text);
$mime->addAttachment($file);
$body = $mime->get();
$headers = $mime->headers(['From' => "from@$domain", 'To' => "to@$domain", 'Cc' => "cc@$domain", 'Subject' => $subject]);
if ($argv[1] === 'mail') {
    // As Roundcube: mail() with the sender as its fifth parameter, so sendmail -t, and Bcc in the header.
    $result = Mail::factory('mail', "-ffrom@$domain")->send("to@$domain", $headers + ['Bcc' => "bcc@$domain"], $body);
} else {
    $result = Mail::factory('sendmail')->send("to@$domain, cc@$domain, bcc@$domain", $headers, $body);
}
if (PEAR::isError($result)) {
    exit('PEAR_Error: ' . $result->getMessage() . "\n");
}
echo "sent\n";
