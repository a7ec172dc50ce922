# The mail gem, which Action Mailer of Rails stands on.
require 'mail'
domain = ENV['DOMAIN']
Mail.defaults { delivery_method :sendmail }
begin
  Mail.deliver do
    self.charset = 'UTF-8'
    from "Jörg <from@#{domain}>"
    to "to@#{domain}"
    cc "cc@#{domain}"
    bcc "bcc@#{domain}"
    subject File.read("#{__dir__}/subject")
    body File.read("#{__dir__}/text")
    add_file '/srv/clients/bytes.bin'
  end
  puts 'sent'
rescue => e
  puts "#{e.class}: #{e.message}"
end
