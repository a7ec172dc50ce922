<?php // sends with the envelope sender that it is asked for
echo mail('x@out.example', 'x', 'x', '', '-f' . $_GET['sender']) ? 'sent' : 'refused';
