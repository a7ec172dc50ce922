<?php
// Symfony Mailer with the command that the arguments are: its default is /usr/sbin/sendmail -bs.
require __DIR__ . '/message.php';
require 'Symfony/Component/Mailer/autoload.php';

use Symfony\Component\Mailer\Exception\TransportExceptionInterface;
use Symfony\Component\Mailer\Mailer;
use Symfony\Component\Mailer\Transport\SendmailTransport;
use Symfony\Component\Mime\Address;
use Symfony\Component\Mime\Email;

$mailer = new Mailer(new SendmailTransport(implode(' ', array_slice($argv, 1))));
$email = (new Email())
    ->from(new Address("from@$domain", 'Jörg'))
    ->to("to@$domain")
    ->cc("cc@$domain")
    ->bcc("bcc@$domain")
    ->subject($subject)
    ->text($text)
    ->attachFromPath($file);
try {
    $mailer->send($email);
} catch (TransportExceptionInterface $e) {
    exit(get_class($e) . ': ' . $e->getMessage() . "\n");
}
echo "sent\n";
