use std::sync::Mutex as StdMutex;

use super::*;

/// Takes so many bytes at each turn, or fails; everything once the turns are over.
#[derive(Clone, Default)]
struct Reader {
    turns: Arc<StdMutex<Vec<Result<usize, ErrorKind>>>>,
    read: Arc<StdMutex<Vec<u8>>>,
}

impl Write for Reader {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut turns = self.turns.lock().unwrap();
        let count = if turns.is_empty() { bytes.len() } else { turns.remove(0)?.min(bytes.len()) };
        self.read.lock().unwrap().extend_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn target(turns: Vec<Result<usize, ErrorKind>>) -> (StdoutTarget, Reader) {
    let reader = Reader { turns: Arc::new(StdMutex::new(turns)), ..Reader::default() };
    let settings = model::Stdout { extended_json: false };
    (StdoutTarget::with(Pipe::to(Box::new(reader.clone())), &settings, "shop 1"), reader)
}

fn request(lines: &[&str]) -> Request {
    let mut body = Vec::new();
    let items = lines
        .iter()
        .map(|line| {
            let start = body.len();
            body.extend_from_slice(line.as_bytes());
            super::super::Item { range: start..body.len(), place: PlaceKey(line.as_bytes().into()) }
        })
        .collect();
    Request { body: body.into(), items, lane: 0, right: None, standing: None }
}

fn through(outcomes: &[Outcome]) -> Vec<bool> {
    outcomes.iter().map(|outcome| *outcome == Outcome::Applied).collect()
}

/// A disk may be full behind a redirection.
#[tokio::test]
async fn a_line_that_breaks_off_is_ended_before_another_begins() {
    let full = ErrorKind::StorageFull;
    let turns = vec![Ok(3), Err(ErrorKind::Interrupted), Ok(5), Err(full), Ok(1), Err(full)];
    let (target, reader) = target(turns);
    let all = request(&["first\n", "second\n", "third\n"]);
    let outcomes = target.send(&all).await.unwrap();
    assert_eq!(through(&outcomes), [true, false, false]);
    let rest = all.only(&[1, 2]);
    assert_eq!(through(&target.send(&rest).await.unwrap()), [false, false]);
    assert_eq!(through(&target.send(&rest).await.unwrap()), [true, true]);
    let read = String::from_utf8(reader.read.lock().unwrap().clone()).unwrap();
    assert_eq!(read, "first\nsecond\nsecond\nthird\n");
}

/// A pause and a resume make a target anew.
#[tokio::test]
async fn another_target_on_the_same_pipe_ends_the_line_that_broke_off() {
    let (first, reader) = target(vec![Ok(3), Err(ErrorKind::StorageFull)]);
    let outcomes = first.send(&request(&["first\n"])).await.unwrap();
    assert_eq!(through(&outcomes), [false]);
    let settings = model::Stdout { extended_json: false };
    let second = StdoutTarget::with(first.pipe.clone(), &settings, "shop 1");
    let outcomes = second.send(&request(&["second\n"])).await.unwrap();
    assert_eq!(through(&outcomes), [true]);
    let read = String::from_utf8(reader.read.lock().unwrap().clone()).unwrap();
    assert_eq!(read, "first\nsecond\n");
}

#[tokio::test]
async fn a_reader_that_is_gone_closes_the_target() {
    let (target, _) = target(vec![Ok(4), Err(ErrorKind::BrokenPipe)]);
    let outcomes = target.send(&request(&["one\n", "two\n"])).await.unwrap();
    // The first line lies in a pipe that nobody reads.
    assert_eq!(through(&outcomes), [false, false]);
    assert!(target.gone.is_cancelled());
    target.closed().await;
}
