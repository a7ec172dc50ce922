<?php
function letter(string $subject) { return mail('x@outside.example', $subject, 'x'); }
