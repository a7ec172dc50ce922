<?php
// What all the PHP clients send. The domain tells the clients apart: to@, cc@, bcc@ and from@ of it.
$domain = getenv('DOMAIN') ?: $_GET['domain'];
$subject = file_get_contents(__DIR__ . '/subject');
$text = file_get_contents(__DIR__ . '/text');
$file = '/srv/clients/bytes.bin';
