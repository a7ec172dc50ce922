<?php
// SwiftMailer with the command that the arguments are: its default is /usr/sbin/sendmail -bs.
require __DIR__ . '/message.php';
require 'Egulias/EmailValidator/autoload.php';
require 'Swift/swift_required.php';

$mailer = new Swift_Mailer(new Swift_SendmailTransport(implode(' ', array_slice($argv, 1))));
$message = (new Swift_Message($subject))
    ->setFrom(["from@$domain" => 'Jörg'])
    ->setTo("to@$domain")
    ->setCc("cc@$domain")
    ->setBcc("bcc@$domain")
    ->setBody($text)
    ->attach(Swift_Attachment::fromPath($file));
try {
    $failed = [];
    echo $mailer->send($message, $failed), ' sent, failed: ', implode(' ', $failed), "\n";
} catch (Swift_TransportException $e) {
    exit(get_class($e) . ': ' . $e->getMessage() . "\n");
}
