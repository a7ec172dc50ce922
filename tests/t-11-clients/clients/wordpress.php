<?php
// wp_mail() of WordPress itself. What it asks the database for, options, is answered by
// WordPress' own filters, so that there need be none.
require __DIR__ . '/message.php';

define('ABSPATH', '/usr/share/wordpress/');
define('WPINC', 'wp-includes');
define('WP_CONTENT_DIR', '/var/lib/wordpress/wp-content');
foreach (['compat', 'load', 'plugin', 'class-wp-error', 'functions', 'formatting', 'http', 'general-template', 'link-template', 'pluggable'] as $part) {
    require ABSPATH . WPINC . "/$part.php";
}
add_filter('pre_option_home', fn () => "http://www.$domain");
add_filter('pre_option_blog_charset', fn () => 'UTF-8');
add_action('wp_mail_failed', fn (WP_Error $error) => print('wp_mail_failed: ' . $error->get_error_message() . "\n"));

$sent = wp_mail("to@$domain", $subject, $text, ["Cc: cc@$domain", "Bcc: bcc@$domain"], [$file]);
echo 'wp_mail() said ', var_export($sent, true), "\n";
