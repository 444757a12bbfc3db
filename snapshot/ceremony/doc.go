// Package ceremony is the publisher's side of a network: keys, a draft, what
// is being signed, what was published, and the sites that nodes pull from.
//
// A ceremony is a directory ([Repository] names its entries). Key holders sign
// on machines of their own; what travels between them holds no secrets, and is
// read as what a stranger may have replaced. Every verb goes the same way:
//
//		lock → read all of the folder → verify what was published from the first
//		root on → compute the difference → show it → one step after another, each
//		a file that is replaced or removed durably
//
//	 1. What is staged or drafted counts only where it follows what was
//	    published. Everything else is named and left alone.
//	 2. [Pending] is the one value that says what would be signed. What was
//	    shown is what is signed, or nothing is.
//	 3. Root keys sign when asked ([SignOptions].Root) and confirmed.
//	 4. A document is dated when it is first signed, and again when it expired
//	    before the last signature.
//	 5. Before anything is published it goes through a node's own steps: those
//	    of a new node, those of one that has what was published before, and
//	    those of one that has what the [Site] has.
//	 6. One number has one text, at every site and in metadata/.
//	 7. A root that waits, edits that wait, and a draft that cannot be read stop
//	    neither a withdrawal nor [Repository.Renew].
//	 8. The timestamp is written last: it is what makes a set the published one,
//	    and a crash before it leaves the set before.
//	 9. A key remembers beside its file what its holder has seen, and refuses a
//	    folder that is older or another network's.
//
// Imports run one way: package snapshot knows nothing of this one.
package ceremony
