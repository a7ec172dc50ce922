<?php eval('eval("mail(\'x@outside.example\', \'code in code\', \'x\');");');
