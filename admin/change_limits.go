package admin

import (
	"context"

	"sendmail-wrapper/quota"
)

// LimitChange is a limit that is to be set: see SetLimit.
type LimitChange struct {
	Object quota.Object
	Class  quota.Class
	Limit  quota.Limit
	Value  int64
}

// ChangeLimits makes all changes, or none; each has its row in the audit.
func (a *Admin) ChangeLimits(ctx context.Context, list []LimitChange) error {
	return a.together(ctx, func(b *Admin) error {
		for _, c := range list {
			if _, err := b.SetLimit(ctx, c.Object, c.Class, c.Limit, &c.Value); err != nil {
				return err
			}
		}
		return nil
	})
}
