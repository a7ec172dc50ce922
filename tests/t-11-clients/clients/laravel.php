<?php
// Laravel's mailer, made by its MailManager as a site's config/mail.php has it.
require __DIR__ . '/message.php';
require 'Egulias/EmailValidator/autoload.php';
foreach (['Config', 'Events', 'Mail', 'View'] as $part) {
    require "Illuminate/$part/autoload.php";
}

use Illuminate\Config\Repository;
use Illuminate\Container\Container;
use Illuminate\Events\Dispatcher;
use Illuminate\Filesystem\Filesystem;
use Illuminate\Mail\MailManager;
use Illuminate\View\Engines\EngineResolver;
use Illuminate\View\Factory;
use Illuminate\View\FileViewFinder;

$app = new Container();
$app['config'] = new Repository(['mail' => [
    'default' => 'sendmail',
    'mailers' => ['sendmail' => ['transport' => 'sendmail', 'path' => '/usr/sbin/sendmail -bs -i']],
    'from' => ['address' => "from@$domain", 'name' => 'Jörg'],
]]);
$app['events'] = new Dispatcher($app);
$app['view'] = new Factory(new EngineResolver(), new FileViewFinder(new Filesystem(), []), $app['events']);
try {
    (new MailManager($app))->mailer()->raw($text, fn ($message) => $message
        ->to("to@$domain")->cc("cc@$domain")->bcc("bcc@$domain")->subject($subject)->attach($file));
} catch (Exception $e) {
    exit(get_class($e) . ': ' . $e->getMessage() . "\n");
}
echo "sent\n";
