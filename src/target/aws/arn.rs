//! Amazon resource names.

/// The parts of `arn:partition:service:region:account:resource`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arn<'a> {
    /// `aws`, `aws-cn`, `aws-us-gov`, …
    pub partition: &'a str,
    /// `iam`, `sts`, …
    pub service: &'a str,
    /// Twelve digits; empty or `aws` for what is AWS's own.
    pub account: &'a str,
    /// What follows.
    pub resource: &'a str,
}

impl<'a> Arn<'a> {
    /// Splits a text; the error says what is wrong with it in the words of AWS's own libraries.
    pub fn parse(text: &'a str) -> Result<Self, &'static str> {
        let rest = text.strip_prefix("arn:").ok_or("arn: invalid prefix")?;
        let mut parts = rest.splitn(5, ':');
        match (parts.next(), parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(partition), Some(service), Some(_), Some(account), Some(resource)) => {
                Ok(Self { partition, service, account, resource })
            }
            _ => Err("arn: not enough sections"),
        }
    }

    /// The name of a user or role: the last part of the resource, if it is of that `kind`.
    pub fn name(&self, kind: &str) -> Option<&'a str> {
        let rest = self.resource.strip_prefix(kind)?.strip_prefix('/')?;
        rest.rsplit('/').next().filter(|name| !name.is_empty())
    }
}

/// The account in an ARN, if it names one.
pub fn account(arn: &str) -> Option<&str> {
    Arn::parse(arn).ok().map(|arn| arn.account).filter(|account| !account.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_and_names() {
        let arn = Arn::parse("arn:aws-cn:iam::123456789012:user/team/app").unwrap();
        assert_eq!((arn.partition, arn.service, arn.account), ("aws-cn", "iam", "123456789012"));
        assert_eq!((arn.name("user"), arn.name("role")), (Some("app"), None));
        assert_eq!(Arn::parse("x"), Err("arn: invalid prefix"));
        assert_eq!(Arn::parse("arn:aws:iam"), Err("arn: not enough sections"));
        assert_eq!(account("arn:aws:iam::1:role/r"), Some("1"));
        assert_eq!(
            account("arn:aws:iam::1:root").and_then(|_| Arn::parse("arn:aws:iam::1:root").unwrap().name("user")),
            None
        );
    }
}
